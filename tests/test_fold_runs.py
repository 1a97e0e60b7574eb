"""`crosscale train --folds`: finished folds are kept, the numbers are those of the folds, and each is a run."""

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.errors import RequestError, WorkError
from crosscale.recipe import Recipe, load
from crosscale.runs.folds import RESULTS, run_folds, spread
from tests.reliability.runs import start, words

pytest.importorskip("sklearn")


class Trainings:
    """Stands in for the training of a fold: writes what a run has, and gives a number of its own."""

    def __init__(self, fails: int | None = None, stops: int | None = None) -> None:
        self.fails, self.stops = fails, stops
        self.begun: list[tuple[int, bool]] = []

    def __call__(self, recipe: Recipe, folder: Path, resume: bool) -> dict[str, Any]:
        number = recipe.data.fold
        assert number is not None
        self.begun.append((number, resume))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text("")
        if number == self.fails:
            raise WorkError("a bad picture")
        stopped = "SIGTERM" if number == self.stops else None
        return {"top1": 0.9 + number / 100, "loss": None, "stopped": stopped, "output_dir": str(folder)}


RECIPE = load("smoke", {"data.folds": "3"})


def without_time(page: str) -> str:
    """A page without the second at which it was written, which differs between two writings of the same."""
    bare, count = re.subn(r"\d\d:\d\d:\d\d [+-]\d{4}", "", page)
    assert count == 1
    return bare


def test_every_fold_is_trained_and_the_numbers_are_theirs(tmp_path: Path) -> None:
    trainings = Trainings()
    found = run_folds(RECIPE, tmp_path / "run", train=trainings)
    assert trainings.begun == [(1, False), (2, False), (3, False)]
    assert [Path(result["output_dir"]).name for result in found["folds"]] == ["fold-1", "fold-2", "fold-3"]
    assert found["mean"]["top1"] == pytest.approx(0.92)
    assert found["deviation"]["top1"] == pytest.approx(np.std([0.91, 0.92, 0.93], ddof=1))
    assert found["mean"]["loss"] is None
    assert found["stopped"] is None
    with pytest.raises(RequestError, match="already holds a run; --resume"):
        run_folds(RECIPE, tmp_path / "run", train=trainings)


def test_what_is_done_is_kept_and_what_was_begun_goes_on(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="a bad picture"):
        run_folds(RECIPE, tmp_path / "run", train=Trainings(fails=2))
    rest = Trainings()
    found = run_folds(load(tmp_path / "run" / "recipe.yaml"), tmp_path / "run", resume=True, train=rest)
    assert rest.begun == [(2, True), (3, False)]
    assert [result["top1"] for result in found["folds"]] == pytest.approx([0.91, 0.92, 0.93])
    other = load("smoke", {"data.folds": "3", "optimizer.lr": "0.5"})
    with pytest.raises(RequestError, match=r"was begun with optimizer.lr=0.01, not 0.5"):
        run_folds(other, tmp_path / "run", resume=True, train=rest)


def test_a_signal_ends_the_whole_and_the_fold_goes_on(tmp_path: Path) -> None:
    found = run_folds(RECIPE, tmp_path / "run", train=Trainings(stops=2))
    assert (found["stopped"], len(found["folds"])) == ("SIGTERM", 1)
    rest = Trainings()
    run_folds(RECIPE, tmp_path / "run", resume=True, train=rest)
    assert rest.begun == [(2, True), (3, False)]


def test_a_start_that_fails_can_be_begun_again(tmp_path: Path) -> None:
    def refuse(recipe: Recipe, folder: Path, resume: bool) -> dict[str, Any]:
        raise RequestError("no such data")

    for _ in range(2):
        with pytest.raises(RequestError, match="no such data"):
            run_folds(RECIPE, tmp_path / "run", train=refuse)
        assert not any(tmp_path.iterdir())


def test_a_results_file_that_was_torn_costs_the_folds_alone(tmp_path: Path) -> None:
    run_folds(RECIPE, tmp_path / "run", train=Trainings())
    (tmp_path / "run" / RESULTS).write_text("[{")
    again = Trainings()
    run_folds(RECIPE, tmp_path / "run", resume=True, train=again)
    assert again.begun == [(1, True), (2, True), (3, True)]  # each of which is done, and says so at once


def test_the_deviation_takes_two() -> None:
    assert spread([{"top1": 0.5}], ["top1"]) == {"mean": {"top1": 0.5}, "deviation": {"top1": None}}
    assert spread([], ["top1"]) == {"mean": {"top1": None}, "deviation": {"top1": None}}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"data.folds": "1"}, "data.folds=1: must be 2 or more"),
        ({"data.fold": "1"}, "data.fold and data.folds_by go with data.folds"),
        ({"data.folds_by": "patient"}, "data.fold and data.folds_by go with data.folds"),
        ({"data.folds": "3", "data.fold": "4"}, "data.fold=4: must lie in 1..3"),
    ],
)
def test_wrong_folds_are_one_line(keys: dict[str, str], line: str) -> None:
    with pytest.raises(RequestError, match=line):
        load("smoke", keys)


@pytest.mark.slow
def test_a_killed_cross_validation_goes_on_and_each_fold_validates_as_it_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = words({"train.epochs": "1", "validate.use_ema": "false", "train.ema_decay": "null"})
    process = start(*given, "--folds", "2", "--output-dir", str(run))
    while not (run / RESULTS).exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = (run / "fold-1" / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["train", "--output-dir", str(run), "--resume", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (run / "fold-1" / "metrics.jsonl").stat().st_mtime_ns == kept
    assert [result["examples"] for result in found["folds"]] == [899, 898]
    assert found["mean"]["top1"] == pytest.approx(np.mean([result["top1"] for result in found["folds"]]))
    page = Path(found["report"]).read_text()
    assert "fold-1" in page
    assert "deviation" in page
    Path(found["report"]).unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == found["report"]
    assert without_time(Path(found["report"]).read_text()) == without_time(page)
    for number, result in enumerate(found["folds"], 1):
        assert main(["validate", "--run", str(run / f"fold-{number}"), "--json"]) == 0
        measured = json.loads(capsys.readouterr().out)
        assert (measured["top1"], measured["examples"]) == (pytest.approx(result["top1"]), result["examples"])
