"""A run's own recipe gives the same run again, also when it is killed on the way, and its best weights the logged
accuracy: as commands."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reliability.runs import assert_same_run, checkpoints, records, start, train

pytestmark = pytest.mark.slow

# The whole smoke recipe, with everything random on, loaded by threads the first time and by processes the second.
RUN = ["--config", "smoke", "--train.epochs", "3", "--train.seed", "11"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "run"
    done = train(*RUN, "--output-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_the_recipe_of_a_run_repeats_it_to_the_last_bit(run: Path, tmp_path: Path) -> None:
    again = train("--config", str(run / "recipe.yaml"), "--data.workers", "1", "--output-dir", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "again", run)


def test_killed_and_resumed_it_is_the_same_to_the_last_bit(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(*RUN, "--output-dir", str(folder))
    while not checkpoints(folder):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert checkpoints(folder)[-1] < records(run)[-1]["step"]
    resumed = train("--output-dir", str(folder), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(folder, run)


def test_validate_repeats_the_logged_best_accuracy_exactly(run: Path) -> None:
    command = [sys.executable, "-m", "crosscale", "validate", "--run", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    best = max((r for r in records(run) if r["kind"] == "validate"), key=lambda r: (r["top1"], -r["loss"]))
    for key in ("top1", "top5", "loss", "examples"):
        assert result[key] == best[key], key


def test_the_run_says_where_it_ran(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 11
    assert environment["devices"] >= 1
    assert {"Python", "jax", "flax", "numpy", "orbax-checkpoint"} <= set(environment["versions"])
    here = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if here.returncode == 0:
        assert environment["git"]["commit"] == here.stdout.strip()
        assert f"git {here.stdout[:12]}" in (run / "log.txt").read_text()
