"""`train.batch_size: auto`: the largest size that fits is found with few compilations, told, recorded and kept."""

from pathlib import Path

import pytest

from crosscale.engine.memory import free_bytes
from crosscale.errors import RequestError
from crosscale.recipe import dump, load
from crosscale.runs.batch_size import _told, largest, with_batch_size
from crosscale.runs.experiment import check_without_data
from tests.reliability.runs import SMALL

MIB = 2**20
POWERS = [2**k for k in range(12)]


class Needs:
    """Bytes by size: a part that is always there, one for each picture, and what was asked for."""

    def __init__(self, fixed: float, each: float, waste_from: int = 10**9) -> None:
        self.fixed, self.each, self.waste_from = fixed, each, waste_from
        self.asked: list[int] = []

    def __call__(self, images: int) -> int | None:
        self.asked.append(images)
        return round((self.fixed + self.each * images) * (2 if images >= self.waste_from else 1))


@pytest.mark.parametrize(
    ("needs", "limit", "size"),
    [
        (Needs(100, 10), 100 + 10 * 512, 512),
        (Needs(100, 10), 99 + 10 * 512, 256),
        (Needs(100, 10), 10**9, 2048),
        (Needs(100, 10), 120, 2),
        (Needs(100, 10), 100 + 10 * 16, 16),
        (Needs(100, 10), 99 + 10 * 16, 8),
        (Needs(100, 10, waste_from=256), 100 + 10 * 512, 128),
        (Needs(100, 0), 101, 2048),
    ],
)
def test_the_largest_that_fits_is_found_with_few_questions(needs: Needs, limit: float, size: int) -> None:
    needs.asked.clear()
    assert largest(POWERS, needs, limit) == size
    assert len(needs.asked) == len(set(needs.asked)) <= 6
    assert size in needs.asked  # measured, not only foretold


def test_a_size_that_the_compiler_cannot_do_does_not_fit() -> None:
    assert largest(POWERS, lambda images: None if images > 4 else 1, 10) == 4


def test_nothing_that_fits_is_said() -> None:
    with pytest.raises(RequestError, match=r"train.batch_size=auto: not even 1 pictures fit .* train.remat=blocks"):
        largest(POWERS, Needs(100, 10), 50)


def test_free_memory_is_that_of_the_machine() -> None:
    assert 64 * MIB < free_bytes() < 2**44


def test_a_number_is_left_alone_and_auto_is_no_number() -> None:
    recipe = load("smoke")
    assert with_batch_size(recipe) == (recipe, None)
    auto = load("smoke", {"train.batch_size": "auto"})
    assert auto.train.batch_size == "auto"
    with pytest.raises(RequestError, match="auto is chosen where a training begins"):
        _ = auto.train.images_per_step
    with pytest.raises(RequestError, match=r"train.batch_size: expected a whole number or auto, got 'atuo'"):
        load("smoke", {"train.batch_size": "atuo"})


def test_a_run_that_goes_on_keeps_its_size(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump(load("smoke", {"train.batch_size": "96"})))
    auto = load("smoke", {"train.batch_size": "auto"})
    assert with_batch_size(auto, folder=tmp_path) == (load("smoke", {"train.batch_size": "96"}), None)


@pytest.mark.slow
def test_compiled_steps_decide_and_what_was_tried_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of some 29 pictures 8 or 16 can be a batch; the second is told not to fit."""
    keys = {
        "data.subset": "0.02",
        "optimizer.name": "sgd",
        "optimizer.frozen": "['(?!head).*']",
        "train.ema_decay": "null",
    }
    recipe = load("smoke", {**SMALL, **keys, "train.batch_size": "auto"})
    assert check_without_data(recipe)["batch_size"] == "auto"
    needs: list[int] = []

    def measured(images: int, own: int | None, free: int) -> int | None:
        assert own is not None
        needs.append(own)
        return own if images == 8 else 2 * free

    monkeypatch.setattr("crosscale.runs.batch_size._told", measured)
    sized, splits = with_batch_size(recipe)
    assert splits is not None
    assert sized.train.batch_size == 8
    assert 16 <= len(splits[0]) < 32
    eight, sixteen = needs
    assert sixteen - eight >= 2 * 8 * 16 * 16  # the pictures of this step, and those of the next, which wait
    monkeypatch.undo()
    capsys.readouterr()
    assert largest([8, 16], lambda images: _told(images, images * MIB, 10 * MIB), 9 * MIB) == 8
    assert capsys.readouterr().err == (
        "train.batch_size 8: 8 MiB of 10 MiB free on each device: fits\n"
        "train.batch_size 16: 16 MiB of 10 MiB free on each device: does not fit\n"
    )
