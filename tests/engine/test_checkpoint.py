"""Checkpoints of real files: what is kept, what comes back, and what survives damage."""

import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.sharding import data_mesh, replicated
from crosscale.errors import WorkError


def tree(value: float) -> dict[str, Any]:
    return {"params": {"w": jnp.full((3, 2), value)}, "step": jnp.int32(value), "ema": None}


def restore(checkpoints: Checkpoints) -> Any:
    return checkpoints.restore(tree(0), replicated(data_mesh()))


def test_state_and_progress_come_back(tmp_path: Path) -> None:
    progress = {"epoch": 3, "window": {"loss": [0.1 + 0.2, 5.0]}, "best": None}
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(7, tree(7), progress)
    checkpoints.close()
    state, back = restore(Checkpoints(tmp_path / "c", keep=2))
    np.testing.assert_array_equal(state["params"]["w"], np.full((3, 2), 7.0, np.float32))
    assert state["ema"] is None
    assert isinstance(state["step"], jax.Array)
    assert back == progress  # floats to the last bit


def test_nothing_to_restore_is_none(tmp_path: Path) -> None:
    assert restore(Checkpoints(tmp_path / "c", keep=1)) is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step, score in [(1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.6), (6, None)]:
        checkpoints.save(step, tree(step), {}, None if score is None else (score, -1.0))
    checkpoints.close()
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [2, 5, 6]


def test_a_relative_folder_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(Path("c"), keep=1)
    checkpoints.save(1, tree(1), {})
    checkpoints.wait()
    assert checkpoints.latest_step() == 1


def test_the_same_step_is_written_again_only_with_a_score(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, tree(1), {"epoch": 0})
    checkpoints.save(1, tree(1), {"epoch": 9})
    checkpoints.wait()
    assert restore(checkpoints)[1] == {"epoch": 0}
    checkpoints.save(1, tree(1), {"epoch": 1}, (0.5, -1.0))
    checkpoints.wait()
    assert restore(checkpoints)[1] == {"epoch": 1}


def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    for step in (1, 2):
        checkpoints.save(step, tree(step), {"step": step})
    checkpoints.close()
    for file in (tmp_path / "c" / "2" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * 8)
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    state, progress = restore(checkpoints)
    assert (int(state["step"]), progress["step"]) == (1, 1)
    assert "checkpoint 2 cannot be read" in caplog.text
    checkpoints.save(2, tree(2), {"step": 2})  # the damaged one does not stand in the way
    checkpoints.wait()
    assert restore(checkpoints)[1] == {"step": 2}


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_one_changed_byte_in_a_number_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: float
) -> None:
    noise = {"w": np.random.default_rng(0).normal(size=(100, 50)).astype(np.float32)}  # stored as it is
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2):
        checkpoints.save(step, noise, {"step": step})
    checkpoints.close()
    files = [file for file in (tmp_path / "c" / "2" / "state").rglob("d/*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[int(place * len(data))] ^= 1
    largest.write_bytes(bytes(data))
    assert Checkpoints(tmp_path / "c", keep=2).restore(noise, replicated(data_mesh()))[1] == {"step": 1}
    assert "checkpoint 2 cannot be read (state/" in caplog.text
    assert f"{largest.name} is damaged: it is not what was written" in caplog.text


def test_a_checkpoint_without_digests_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, tree(1), {"step": 1})
    checkpoints.close()
    (tmp_path / "c" / "1" / "digests.json").unlink()
    assert restore(Checkpoints(tmp_path / "c", keep=1))[1] == {"step": 1}


def test_nothing_readable_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, tree(1), {})
    checkpoints.close()
    shutil.rmtree(tmp_path / "c" / "1" / "state")
    with pytest.raises(WorkError, match="no checkpoint can be read"):
        restore(Checkpoints(tmp_path / "c", keep=1))


def test_another_model_s_checkpoint_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, {**tree(1), "params": {"w": jnp.zeros((5, 5))}}, {})
    checkpoints.wait()
    with pytest.raises(WorkError, match="no checkpoint can be read"):
        restore(checkpoints)


def test_a_clock_that_is_set_forward_during_a_save_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    right, asked, set_at = time.time, 0, 1 << 30

    def clock() -> float:
        nonlocal asked
        asked += 1
        return right() + (3 * 3600 if asked >= set_at else 0)

    monkeypatch.setattr(time, "time", clock)
    checkpoints.save(0, tree(0), {})
    checkpoints.wait()
    assert asked > 20  # Orbax reads it
    for step, set_at in enumerate(range(1, asked * 3 // 4, asked // 8), start=1):  # wherever in the save that happens
        asked = 0
        checkpoints.save(step, tree(step), {})
        checkpoints.wait()
        assert checkpoints.latest_step() == step
        assert asked >= set_at
    checkpoints.close()
