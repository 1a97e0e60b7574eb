"""`crosscale train` as a process: its result, its refusals, and what kill -9 leaves behind.

tests/reliability has signals, and a second run in the folder of one that runs.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.runs import SMALL, TRAIN, assert_same_run, records, train

# Of one branch, which starts in half the time; everything random stays on.
MODEL = [word for key, value in SMALL.items() if key.startswith("model.") for word in (f"--{key}", value)]
# Half an epoch between checkpoints, so that a resumed run begins in the middle of one.
RUN = ["--config", "smoke", "--train.epochs", "12", "--train.log-every", "4", "--train.checkpoint-every", "11", *MODEL]
STEPS = 12 * 22


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([*TRAIN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    """Waits until the metrics hold a line of at least `step`, and a checkpoint is whole."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        steps = [record["step"] for record in records(folder)]
        saved = any(path.name.isdigit() for path in (folder / "checkpoints").glob("*"))
        if steps and steps[-1] >= step and saved:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in time")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that nobody disturbs, begun with --resume where there is none yet."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = train(*RUN, "--output-dir", str(folder), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.slow
def test_json_is_one_object_with_the_promised_keys(whole: tuple[Path, dict[str, Any]]) -> None:
    _, result = whole
    assert {"top1", "top5", "loss", "images_per_second", "examples", "steps", "epochs", "output_dir"} <= set(result)
    assert result["examples"] == 359
    assert result["steps"] == STEPS
    assert 0.3 < result["top1"] <= result["top5"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [16, 48])
def test_a_killed_run_resumes_bit_for_bit(whole: tuple[Path, dict[str, Any]], tmp_path: Path, kill_at: int) -> None:
    folder = tmp_path / "run"
    first = start(*RUN, "--output-dir", str(folder))
    wait_for(first, folder, kill_at)
    first.kill()
    first.communicate()
    assert records(folder)[-1]["step"] < STEPS
    done = train("--output-dir", str(folder), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    resumed_at = int(done.stderr.split("going on from step ")[1].split(",")[0])
    assert resumed_at > 0
    assert resumed_at % 11 == 0
    result, expected = json.loads(done.stdout), whole[1]
    for key in ("top1", "top5", "loss", "best_step", "steps"):
        assert result[key] == expected[key]
    assert_same_run(folder, whole[0])


@pytest.mark.slow
def test_resume_begins_a_run_where_there_is_none(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    refused = train("--output-dir", str(tmp_path / "r"), "--resume")
    assert refused.returncode == 2
    assert "holds no run; give --config" in refused.stderr
    assert whole[1]["output_dir"] == str(whole[0])  # given both, it began one


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "digitz"], "did you mean 'digits'?"),
        (
            ["--config", "smoke", "--optimizer.lrr", "1"],
            "unknown option '--optimizer.lrr'; did you mean '--optimizer.lr'?",
        ),
        (["--lr", "1e-4"], "unknown option '--lr'; did you mean '--optimizer.lr'?"),
        (["--learning-rate", "1e-4"], "unknown option '--learning-rate'; did you mean '--optimizer.lr'?"),
        (["--batch-size=8"], "unknown option '--batch-size'; did you mean '--train.batch-size'?"),
        (["--train.lr", "1"], "unknown option '--train.lr'; did you mean '--optimizer.lr'?"),
        (["--optimiser.name", "sgd"], "unknown option '--optimiser.name'; did you mean '--optimizer.name'?"),
        (["--config", "smoke", "--optimizer.lr", "fast"], "optimizer.lr: expected a number, got 'fast'"),
        (
            ["--config", "smoke", "--train.batch-size", "2.5"],
            "train.batch_size: expected a whole number or auto",
        ),
        (["--config", "smoke", "--model.options.dpeth", "[[1,1,0]]"], "has no option 'dpeth'; did you mean 'depth'?"),
        (["--config", "smoke", "--data-dir", "/no/such"], "/no/such"),
        (["--config", "smoke", "--data-dir", "a", "--data.dir", "b"], "--data-dir and --data.dir are the same key"),
        (["--resume"], "--resume needs --output-dir"),
        (["--config", "smoke", "extra"], "unknown argument 'extra'"),
        ([], "data.dir is not set: give --data-dir"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(words: list[str], message: str, capsys: Any) -> None:
    from crosscale.cli.main import main

    assert main(["train", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_dry_run_prints_the_recipe_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import yaml

    from crosscale.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "smoke", "--dry-run", "--train.epochs", "7"]) == 0
    captured = capsys.readouterr()
    recipe = yaml.safe_load(captured.out)
    assert recipe["train"]["epochs"] == 7
    assert recipe["data"]["classes"] == list("0123456789")
    assert "7 epochs of 22 steps: 154 steps" in captured.err
    assert list(tmp_path.iterdir()) == []
    assert main(["train", "--config", "smoke", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_images"] == 1438


@pytest.mark.slow
def test_the_memory_that_a_run_takes_is_foretold_within_a_factor_of_two(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    env |= {"CROSSCALE_COMPILE_CACHE": "0", "PYTHONPATH": os.getcwd()}  # what is compiled already takes less
    words = [*TRAIN, "--config", "smoke", "--train.epochs", "1", "--schedule.warmup_epochs", "0", *MODEL]
    told = subprocess.run([*words, "--dry-run", "--json"], env=env, capture_output=True, text=True, check=True)
    foretold = sum(json.loads(told.stdout)["host_memory"].values())
    subprocess.run([*words, "--output-dir", str(tmp_path / "run")], env=env, capture_output=True, check=True)
    used = json.loads((tmp_path / "run" / "environment.json").read_text())["peak_host_bytes"]
    assert used / 2 < foretold < 2 * used, (foretold, used)


def test_the_default_folder_is_the_next_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crosscale.cli.train import _next_folder

    monkeypatch.chdir(tmp_path)
    os.makedirs("runs/smoke-1")
    assert _next_folder("smoke") == Path("runs/smoke-2")


def test_help_explains_every_key(capsys: Any) -> None:
    from crosscale.cli.main import main
    from crosscale.recipe import recipe_keys

    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for key in recipe_keys():
        assert f"--{key}" in text
    assert "crosscale train --config digits" in text
