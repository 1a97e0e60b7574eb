"""One run per folder, one writer per run, and no half-written best weights."""

import subprocess
import sys
from pathlib import Path

import pytest

from crosscale.engine.run_folder import holds_run, locked, repair, replace_folder, write_text
from crosscale.errors import RequestError

HOLD = """
import sys, time; from pathlib import Path
from crosscale.engine.run_folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True); time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(RequestError, match="another process is training into it"), locked(tmp_path):
            pass
    finally:
        first.kill()  # the lock goes with the process, without a chance to clean up
        first.wait()
    with locked(tmp_path):
        pass


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RequestError, match="run"), locked(tmp_path / "run"):
        pass


def test_a_run_is_recognised_by_what_it_writes(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert not holds_run(tmp_path)
    assert not holds_run(tmp_path / "missing")
    (tmp_path / "metrics.jsonl").write_text("")
    assert holds_run(tmp_path)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "best"
    replace_folder(target, lambda new: write_text(new / "a", "1"))
    replace_folder(target, lambda new: write_text(new / "b", "2"))
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "best"
    replace_folder(target, lambda new: write_text(new / "a", "1"))

    def fail(new: Path) -> None:
        write_text(new / "a", "2")
        raise OSError("disc full")

    with pytest.raises(OSError, match="disc full"):
        replace_folder(target, fail)
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_replacement_that_was_cut_off_is_undone(tmp_path: Path) -> None:
    target = tmp_path / "best"
    replace_folder(target, lambda new: write_text(new / "a", "1"))
    target.rename(tmp_path / ".best.old")
    (tmp_path / ".best.new-xyz").mkdir()
    repair(target)
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
