"""Runs that are killed, stopped or joined by another, as real processes; the numbers at the end are the same."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.record import record, trying
from tests.reliability.runs import assert_same_run, checkpoints, children, ended, records, start, train, words

KILLS = 25
STEPS = 22  # of an epoch
GRACE = 30.0  # seconds; what Kubernetes gives unless told otherwise
SETTINGS = {
    "train.log_every": "2",
    "train.checkpoint_every": "11",
    "validate.batch_size": "8",
    "train.ema_decay": "0.9",
}
LONG = words({"train.epochs": "40", **SETTINGS})  # every kill lets it go on by about an epoch
SHORT = words({"train.epochs": "8", **SETTINGS})

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]


def undisturbed(folder: Path, recipe: list[str]) -> Path:
    """The folder with a run of this recipe that nobody disturbs."""
    done = train(*recipe, "--output-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short run that nobody disturbs."""
    return undisturbed(tmp_path_factory.mktemp("short") / "run", SHORT)


def starts(folder: Path) -> int:
    """How often a process began to train here; what was left of the one before is cleared away by then."""
    path = folder / "log.txt"
    return path.read_text().count("  crosscale ") if path.exists() else 0


def saving(folder: Path) -> set[str]:
    """Names of checkpoints that are being written."""
    return {path.name for path in (folder / "checkpoints").glob("*-tmp*")}


def validating(folder: Path) -> bool:
    """Whether the last step of an epoch is logged and the epoch is not."""
    last = records(folder)[-1:]
    return bool(last) and last[0]["kind"] == "train" and last[0]["step"] % STEPS == 0


def until(met: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        if process.poll() is not None:
            raise AssertionError(f"ended by itself: {process.communicate()[1][-2000:]}")
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


def wait_for_moment(kind: str, folder: Path, process: "subprocess.Popen[str]", before: int, rng: random.Random) -> None:
    """Returns at a moment of this kind in the process's life."""
    until(lambda: starts(folder) > before, process)
    known = len(records(folder))
    if kind == "save":
        seen: set[str] = set()
        wanted = rng.randint(1, 3)

        def another_save() -> bool:
            seen.update(saving(folder))
            return len(seen) == wanted and bool(saving(folder))

        until(another_save, process)
    elif kind == "validation":
        until(lambda: len(records(folder)) > known and validating(folder) and not saving(folder), process)
        time.sleep(rng.uniform(0, 0.02))
    else:
        until(lambda: len(records(folder)) > known, process)
        time.sleep(rng.uniform(0, 0.4))
        until(lambda: not saving(folder) and not validating(folder), process)


def hit(folder: Path) -> str:
    """What the process was doing when it was killed, by what it left."""
    if saving(folder):
        return "save"
    return "validation" if validating(folder) else "step"


def test_killed_25_times_the_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    folder, rng, hits = tmp_path / "run", random.Random(7), Counter[str]()
    kinds = ["save"] * 7 + ["validation"] * 9 + ["step"] * (KILLS - 16)
    rng.shuffle(kinds)
    for kind in kinds:
        arguments = ["--resume"] if starts(folder) else LONG
        before = starts(folder)
        process = start(*arguments, "--output-dir", str(folder))
        try:
            wait_for_moment(kind, folder, process, before, rng)
        finally:
            process.kill()
            process.communicate()
        hits[hit(folder)] += 1
    for kind, times in hits.items():
        record(f"kill -9 during a {kind}", tried=times)
    assert min(hits[kind] for kind in ("save", "validation", "step")) >= 3, hits
    assert hits.total() == KILLS
    done = train("--output-dir", str(folder), "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, undisturbed(tmp_path / "whole", LONG))
    for kind, times in hits.items():
        record(f"kill -9 during a {kind}", recovered=times, lost="nothing: equal to the last bit")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_answered_within_the_grace(short: Path, tmp_path: Path, name: str) -> None:
    """With loader processes, which must be gone as well."""
    folder = tmp_path / "run"
    process = start(*SHORT, "--data.workers", "2", "--output-dir", str(folder))
    until(lambda: bool(checkpoints(folder)) and len(records(folder)) > 20, process)
    workers = children(process.pid)
    assert len(workers) >= 2
    with trying(f"{name} with two loader processes", lost="nothing: equal to the last bit"):
        began = time.monotonic()
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=GRACE)
        assert time.monotonic() - began < GRACE
        assert process.returncode == 0
        assert f"To go on: crosscale train --output-dir {folder} --resume" in errors.splitlines()[-1]
        assert int(errors.split(f"stopped by {name} at step ")[1].split()[0]) == checkpoints(folder)[-1]
        assert ended(workers)
        done = train("--output-dir", str(folder), "--resume")
        assert (done.returncode, done.stdout) == (0, f"{folder}\n")
        assert_same_run(folder, short)


def test_a_run_whose_reader_has_gone_goes_on(short: Path, tmp_path: Path) -> None:
    process = start(*SHORT, "--output-dir", str(tmp_path / "run"))  # as with `crosscale train 2>&1 | head -1`
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(300) == 0
    assert_same_run(tmp_path / "run", short)


def test_a_run_whose_folder_is_moved_says_so_and_goes_on_there(short: Path, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "moved"
    process = start(*SHORT, "--output-dir", str(folder))
    until(lambda: bool(checkpoints(folder)), process)
    folder.rename(elsewhere)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"{folder}: was moved or deleted while the run was writing there" in error
    assert "Traceback" not in error
    assert not folder.exists()
    done = train("--output-dir", str(elsewhere), "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(elsewhere, short)


def test_a_second_run_in_the_folder_is_refused(short: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(*SHORT, "--output-dir", str(folder))
    try:
        until(lambda: bool(checkpoints(folder)), first)
        os.kill(first.pid, signal.SIGSTOP)  # it cannot end before the others have asked
        for arguments in (SHORT, ["--resume"]):
            with trying("a second run in the folder", lost="nothing: refused, the first goes on"):
                second = train(*arguments, "--output-dir", str(folder))
                assert (second.returncode, len(second.stderr.splitlines())) == (2, 1)
                assert "another" in second.stderr
        os.kill(first.pid, signal.SIGCONT)
        assert first.communicate(timeout=400)[0]
    finally:
        first.kill()
        first.communicate()
    assert_same_run(folder, short)
