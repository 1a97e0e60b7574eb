"""Memory, file handles and processes stay bounded: over thousands of steps, and after what ends a run early."""

import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reliability.record import trying
from tests.reliability.runs import children, open_files, records, start, words

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc"),
]

MIB = 2**20
STEPS_PER_EPOCH = 89  # of 1438 pictures, 16 at a time
SOAK_STEPS = 8000
SOAK_SECONDS = 130.0  # on a busy machine it ends here
SOAK = words(
    {
        "train.epochs": "100000",
        "train.batch_size": "16",
        "train.log_every": "20",
        "train.eval_every": "40",
        "train.checkpoint_every": "50",
        "data.workers": "2",
        "schedule.warmup_epochs": "0",
    }
)


def resident(process: int) -> int:
    """Bytes of memory that a process holds of its own, without what it shares with others."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    private = [int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))]
    return 1024 * sum(private)


def sample(process: int) -> dict[str, int]:
    workers = children(process)
    return {
        "memory": resident(process),
        "workers' memory": sum(resident(worker) for worker in workers),
        "files": open_files(process),
        "workers": len(workers),
    }


WINDOWS = 9  # of a long run; the first third warms up


def test_a_long_run_keeps_its_size(tmp_path: Path) -> None:
    """After the first third memory does not usually grow from one window to the next, and the last third has no more
    files and workers than the middle one.

    A leak grows in every window. The allocator takes tens of megabytes at once, now and then, and gives some back
    (seen: 48 MiB in one step, then none for thousands), so that one step up says nothing. Files are open for a moment
    while a checkpoint is written, more often on a slow disc: a leak raises the fewest that are open.
    """
    folder = tmp_path / "run"
    process = start(*SOAK, "--output-dir", str(folder))
    samples: list[tuple[int, dict[str, int]]] = []
    try:
        with trying("thousands of steps with two loader processes", lost="nothing: no growth"):
            deadline = time.monotonic() + SOAK_SECONDS
            while time.monotonic() < deadline and not (samples and samples[-1][0] >= SOAK_STEPS):
                assert process.poll() is None, process.communicate()[1][-2000:]
                try:
                    steps = [record["step"] for record in records(folder)[-1:]]
                    samples += [(step, sample(process.pid)) for step in steps]
                except OSError:  # a loader ended while it was looked at
                    pass
                time.sleep(0.5)
            middle, last = (samples[len(samples) * i // 3 : len(samples) * (i + 1) // 3] for i in (1, 2))
            print(json.dumps([{name: median(part, name) for name in part[0][1]} for part in (middle, last)]))
            print("steps", samples[-1][0])
            assert last[-1][0] > 2000
            for name in ("memory", "workers' memory"):
                assert usual_growth(samples, name) <= 4 * MIB, (name, samples[:: len(samples) // 40])
            assert fewest(last, "files") <= fewest(middle, "files") + 4
            assert median(last, "workers") <= median(middle, "workers")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def usual_growth(samples: list[tuple[int, dict[str, int]]], name: str) -> float:
    """The median of the differences between neighbouring windows, behind the first third."""
    bounds = [len(samples) * i // WINDOWS for i in range(WINDOWS // 3, WINDOWS + 1)]
    levels = [median(samples[start:end], name) for start, end in itertools.pairwise(bounds)]
    return statistics.median(later - before for before, later in itertools.pairwise(levels))


def test_a_leak_shows_and_a_step_does_not() -> None:
    steady = [300 * MIB + (48 * MIB if i > 250 else 0) for i in range(400)]
    leaking = [300 * MIB + i * 100 * 1024 for i in range(400)]  # 8 KB a step, at 80 samples for 1000 steps
    usual = [usual_growth([(i, {"memory": v}) for i, v in enumerate(values)], "memory") for values in (steady, leaking)]
    assert usual[0] == 0
    assert usual[1] > 4 * MIB


def median(samples: list[tuple[int, dict[str, int]]], name: str) -> float:
    return statistics.median(values[name] for _, values in samples)


def fewest(samples: list[tuple[int, dict[str, int]]], name: str) -> int:
    return min(values[name] for _, values in samples)


@pytest.mark.parametrize(
    ("how", "raised"), [("Ctrl-C", "stopped by SIGINT"), ("exception", "Broken"), ("bad picture", "WorkError")]
)
def test_nothing_is_left_of_a_run_that_ended_early(tmp_path: Path, how: str, raised: str) -> None:
    pictures = tmp_path / "pictures"
    write_pictures(pictures)
    with trying(f"{how} in a run with two loader processes", lost="nothing left behind"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.reliability.leaking", how, str(tmp_path), str(pictures)],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        print(runs)
        assert {run["raised"] for run in runs} == {raised}
        assert min(run["workers"] for run in runs) >= 2
        # The first runs open what the process keeps: the backend, the resource tracker.
        assert runs[-1]["files"] <= runs[1]["files"]
        assert runs[-1]["children"] <= runs[1]["children"] <= 1


def write_pictures(folder: Path) -> None:
    """Two classes of 400 pictures; one of the training ones is cut off."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 20)):
        for name in ("dark", "light"):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(place / f"{i}.png")
    path = folder / "train" / "dark" / "7.png"
    path.write_bytes(path.read_bytes()[:60])
