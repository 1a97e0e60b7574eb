"""`crosscale sweep`: what is tried lies in its range, bad runs end early, and a killed sweep loses nothing."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from crosscale.cli.main import main
from crosscale.cli.train import train_one
from crosscale.errors import GivenUpError, RequestError, WorkError
from crosscale.pretrained.loading import read_source
from crosscale.recipe import Recipe, dump, load
from crosscale.runs.search import Searched, check_search, overrides, parse_search
from crosscale.runs.sweep import read_plan, run_sweep, trial_folders
from tests.reliability.runs import SMALL

RECIPE = load("smoke")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("optimizer.lr=1e-4..1e-2:log", Searched("optimizer.lr", "", 1e-4, 1e-2, log=True)),
        ("optimizer.weight_decay=0..0.1", Searched("optimizer.weight_decay", "", 0, 0.1)),
        ("train.epochs=2..5", Searched("train.epochs", "", 2, 5, whole=True)),
        ("optimizer.lr=1..2", Searched("optimizer.lr", "", 1, 2)),
        ("model.options.drop_rate=0.0..0.5", Searched("model.options.drop_rate", "", 0, 0.5)),
        ("optimizer.name=[adamw, lamb]", Searched("optimizer.name", "", choices=("adamw", "lamb"))),
        ("optimizer.betas=[[0.9, 0.99], [0.9, 0.999]]",
         Searched("optimizer.betas", "", choices=("[0.9, 0.99]", "[0.9, 0.999]"))),
        ("train.ema_decay=[null, 0.9]", Searched("train.ema_decay", "", choices=("null", "0.9"))),
    ],
)  # fmt: skip
def test_a_range_or_a_list_is_read(text: str, found: Searched) -> None:
    searched = parse_search(text)
    assert searched == Searched(**{**vars(found), "text": text})
    check_search(RECIPE, [searched])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("optimizer.lr", "write KEY=LOW..HIGH"),
        ("optimizer.lr=", "write KEY=LOW..HIGH"),
        ("optimizer.lr=0.1", "write KEY=LOW..HIGH"),
        ("optimizer.lr=a..b", "write KEY=LOW..HIGH"),
        ("optimizer.lr=0.1..0.01", "the first end must be the smaller one"),
        ("optimizer.lr=0..1:log", "a logarithm needs numbers above 0"),
        ("optimizer.rl=0..1", "unknown recipe key 'optimizer.rl'; did you mean 'optimizer.lr'"),
        ("optimizer.name=[adamw]", "a list of two values or more"),
        ("optimizer.name=[adamw, adam]", "optimizer.name: expected adamw or sgd or lamb, got 'adam'"),
        ("optimizer.lr=-1..1", "optimizer.lr=-1.0: must be positive"),
        ("train.epochs=1.5..3", "train.epochs: expected a whole number"),
    ],
)
def test_a_wrong_range_is_one_line(text: str, line: str) -> None:
    with pytest.raises(RequestError) as error:
        check_search(RECIPE, [parse_search(text)])
    assert str(error.value).startswith(f"--over '{text}': ")
    assert line in str(error.value)


def test_a_key_stands_once() -> None:
    twice = [parse_search("optimizer.lr=1e-4..1e-2"), parse_search("optimizer.lr=[0.1, 0.2]")]
    with pytest.raises(RequestError, match=r"--over: optimizer.lr appears twice"):
        check_search(RECIPE, twice)


def test_values_are_as_the_command_line_gives_them() -> None:
    assert overrides({"a.b": 0.5, "c.d": 3, "e.f": "[1, 2]"}) == {"a.b": "0.5", "c.d": "3", "e.f": "[1, 2]"}


class Trainings:
    """Stands in for a run: its best top-1 is 1 - |lr - 0.03|, reached over three epochs."""

    def __init__(self, fails: Callable[[int], BaseException | None] = lambda number: None) -> None:
        self.fails = fails
        self.begun: list[tuple[str, bool]] = []
        self.rates: list[float] = []

    def __call__(self, recipe: Recipe, folder: Path, resume: bool, on_epoch: Callable[[], None]) -> dict[str, Any]:
        self.begun.append((folder.name, resume))
        self.rates.append(recipe.optimizer.lr)
        folder.mkdir(exist_ok=True)
        error = self.fails(len(self.begun))
        best = 1 - abs(recipe.optimizer.lr - 0.03)
        with (folder / "metrics.jsonl").open("w") as file:
            for step in (1, 2, 3):
                file.write(
                    json.dumps({"kind": "validate", "step": step, "epoch": step, "top1": best * step / 3}) + "\n"
                )
                file.flush()
                if error is not None and step == 2:
                    raise error
                on_epoch()
        return {"top1": best, "loss": 1 - best, "stopped": None, "output_dir": str(folder)}


LR = [parse_search("optimizer.lr=0.001..0.1:log")]
optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="Optuna is not installed")


@optuna
def test_a_sweep_ends_runs_that_fall_behind_and_names_the_best(tmp_path: Path) -> None:
    trainings = Trainings()
    found = run_sweep(RECIPE, LR, tmp_path / "sweep", trials=12, train=trainings)
    assert [name for name, _ in trainings.begun] == [f"trial-{n}" for n in range(1, 13)]
    states = [trial["state"] for trial in found["trials"]]
    assert states.count("complete") + states.count("pruned") == 12
    assert "pruned" in states
    assert all(0.001 <= rate <= 0.1 for rate in trainings.rates)
    complete = [trial for trial in found["trials"] if trial["state"] == "complete"]
    assert found["best"] == max(complete, key=lambda trial: trial["value"])
    assert found["best"]["value"] == pytest.approx(1 - abs(found["best"]["params"]["optimizer.lr"] - 0.03))


@optuna
def test_a_killed_sweep_goes_on_in_the_run_that_was_under_way(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"

    def killed(number: int) -> BaseException | None:
        return KeyboardInterrupt() if number == 3 else None  # nothing of the sweep's own can answer it

    first = Trainings(killed)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(RECIPE, LR, folder, trials=5, pruner="none", train=first)
    recipe, searched, trials, pruner = read_plan(folder)
    assert (recipe.optimizer, searched, trials, pruner) == (RECIPE.optimizer, LR, 5, "none")
    rest = Trainings()
    found = run_sweep(recipe, searched, folder, trials=trials, pruner=pruner, resume=True, train=rest)
    assert rest.begun == [("trial-3", True), ("trial-4", False), ("trial-5", False)]
    assert rest.rates[0] == first.rates[2]
    assert len({*first.rates, *rest.rates}) == 5
    assert [trial["run"] for trial in found["trials"]] == [f"trial-{n}" for n in range(1, 6)]
    more = run_sweep(recipe, searched, folder, trials=6, pruner=pruner, resume=True, train=rest)
    assert len(more["trials"]) == 6


@optuna
def test_a_run_that_fails_is_a_trial_and_a_wrong_request_ends_the_sweep(tmp_path: Path) -> None:
    trainings = Trainings(lambda number: WorkError("step 4: the loss (nan) is not finite") if number == 2 else None)
    found = run_sweep(RECIPE, LR, tmp_path / "one", trials=3, pruner="none", train=trainings)
    assert [trial["state"] for trial in found["trials"]] == ["complete", "fail", "complete"]
    assert found["trials"][1]["error"] == "step 4: the loss (nan) is not finite"
    with pytest.raises(RequestError, match="no such data"):
        run_sweep(RECIPE, LR, tmp_path / "two", trials=3, train=Trainings(lambda number: RequestError("no such data")))
    with pytest.raises(RequestError, match="already holds runs"):
        run_sweep(RECIPE, LR, tmp_path / "one", trials=3, train=trainings)


@optuna
def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def refuse(recipe: Recipe, folder: Path, resume: bool, on_epoch: Callable[[], None]) -> dict[str, Any]:
        raise RequestError("no such data")

    with pytest.raises(RequestError, match="no such data"):
        run_sweep(RECIPE, LR, tmp_path / "sweeps" / "one", trials=3, train=refuse)
    assert not any(tmp_path.iterdir())


@optuna
def test_a_measure_that_is_better_when_lower_is_shown_as_it_is(tmp_path: Path) -> None:
    recipe = load("smoke", {"validate.best": "loss"})
    found = run_sweep(recipe, LR, tmp_path / "sweep", trials=3, pruner="none", train=Trainings())
    values = [trial["value"] for trial in found["trials"]]
    assert found["best"]["value"] == min(values) > 0


def test_the_command_asks_for_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    for words, line in [
        (["--over", "optimizer.lr=1..2"], "--output-dir SWEEP is missing"),
        (["--output-dir", str(tmp_path)], "--over KEY=LOW..HIGH is missing"),
        (["--output-dir", str(tmp_path), "--resume"], "holds no sweep"),
        (["--output-dir", str(tmp_path), "--resume", "--train.epochs=3"], "leave --train.epochs out"),
    ]:
        assert main(["sweep", *words]) == 2
        assert line in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_real_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    folder = tmp_path / "sweep"
    words = [f"--{key}={value}" for key, value in SMALL.items()]
    sizes = ["--train.epochs=1", "--data.subset=0.2", "--train.batch_size=32"]
    over = ["--over", "optimizer.lr=1e-5..3e-2:log", "--over", "augment.erase_prob=[0.0, 0.1]"]
    assert (
        main(
            ["sweep", "--config=smoke", *words[:-3], *sizes, *over, "--trials=2", "--output-dir", str(folder), "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in found["trials"]] == ["complete", "complete"]
    assert Path(found["report"]).is_file()
    assert (
        f"--config {folder}/recipe.yaml --optimizer.lr {found['best']['params']['optimizer.lr']!r}" in found["command"]
    )
    assert main(["validate", "--run", str(folder / found["best"]["run"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(found["best"]["value"])
    for trial in found["trials"]:
        assert 'id="confusion"' in (folder / trial["run"] / "report.html").read_text()


@pytest.mark.slow
def test_the_page_of_a_run_that_was_given_up_says_so(tmp_path: Path) -> None:
    def give_up() -> None:
        raise GivenUpError("given up by Optuna's pruner")

    with pytest.raises(GivenUpError):
        train_one(load("smoke", SMALL), tmp_path / "run", ["sweep"], on_epoch=give_up)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "1 of 3 epochs are done (given up by Optuna&#39;s pruner); to go on:" in page


@pytest.fixture
def swept(tiny_run: Path, tmp_path: Path) -> Path:
    """A folder as a sweep leaves it: three runs, the second without a validation."""
    folder = tmp_path / "sweep"
    for number in (1, 2, 10):
        shutil.copytree(tiny_run, folder / f"trial-{number}")
        (folder / f"trial-{number}" / "recipe.yaml").write_text(dump(RECIPE))
    shutil.rmtree(folder / "trial-2" / "best")
    (folder / "recipe.yaml").write_text(dump(RECIPE))
    (folder / "sweep.json").write_text(json.dumps({"over": [], "trials": 3, "pruner": "none"}))
    return folder


def test_the_page_of_a_sweep_is_drawn_again(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [path.name for path in trial_folders(swept)] == ["trial-1", "trial-10"]
    assert main(["report", str(swept)]) == 0
    assert capsys.readouterr().out.strip() == str(swept / "report.html")
    page = (swept / "report.html").read_text()
    assert "trial-1<" in page
    assert "trial-10<" in page
    shutil.rmtree(swept / "trial-10" / "best")
    assert main(["report", str(swept)]) == 2
    assert f"{swept}: holds several runs, not one; name one of them, such as" in capsys.readouterr().err
    assert (swept / "report.html").read_text() == page


def test_a_sweep_is_not_gone_on_with_as_one_run(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--output-dir", str(swept), "--resume"]) == 2
    assert f"holds a sweep; to go on: crosscale sweep --output-dir {swept} --resume" in capsys.readouterr().err
    assert not (swept / "metrics.jsonl").exists()


@pytest.mark.parametrize("kind", ["trial", "fold"])
def test_a_folder_of_several_runs_names_one_of_them(swept: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (swept / "trial-1").rename(one := swept / f"{kind}-1")
    (picture := swept / "x.png").touch()
    name = ["--run", str(swept)]
    said = f"holds several runs, not one; name one of them, such as {one}"
    for words in (
        ["validate", *name],
        ["predict", *name, str(picture)],
        ["calibrate", *name],
        ["convert", str(swept), "o"],
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert main(["train", "--config", "smoke", "--dry-run", "--distill.teacher", str(swept)]) == 2
    assert f"holds several runs, not one; name one, such as {one}" in capsys.readouterr().err
    with pytest.raises(RequestError, match="holds several runs"):
        read_source(swept)
