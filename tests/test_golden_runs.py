"""Whole run folders that earlier code left (`golden/runs/make_goldens.py`): all that is done with a run still works."""

import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.errors import RequestError
from crosscale.export.export import export
from crosscale.predictor import Predictor
from crosscale.recipe import load
from crosscale.report.write import write_report
from crosscale.runs.train import run_training
from crosscale.runs.validate import evaluate_run
from crosscale.serve.app import make_app
from crosscale.serve.served import ServedModel
from crosscale.serve.settings import Settings
from tests.variants import variants

GOLDEN = Path(__file__).parent / "golden" / "runs"
RUNS = sorted(path.name for path in GOLDEN.iterdir() if (path / "expected.json").is_file())


def unpacked(name: str, folder: Path) -> Path:
    """A copy of the run that may be written to, with its checkpoints."""
    shutil.copytree(GOLDEN / name, folder)
    with tarfile.open(folder / "checkpoints.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", params=variants(RUNS, ["crossvit"]))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only read."""
    return unpacked(request.param, tmp_path_factory.mktemp("golden") / request.param)


@pytest.fixture(scope="module")
def expected(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "expected.json").read_text()))


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.from_run(run)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The held-out digits that `expected` has predictions of, as files."""
    folder, source = tmp_path_factory.mktemp("pictures"), open_source("digits", "val", val_fraction=0.2, seed=0)
    files = [folder / f"{i}.png" for i in range(3)]
    for i, file in enumerate(files):
        Image.fromarray(source[i].image).save(file)
    return files


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """One picture's probabilities, by class name."""
    ours, theirs = (dict(zip(p["classes"], p["probabilities"], strict=True)) for p in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_there_is_one_of_each_family() -> None:
    assert RUNS == ["crossformer", "crossvit"]
    for name in RUNS:
        assert "version" not in json.loads((GOLDEN / name / "best" / "config.json").read_text())


def test_validates_to_the_recorded_numbers(run: Path, expected: dict[str, Any]) -> None:
    found = evaluate_run(run=run).numbers
    recorded = json.loads((run / "best" / "config.json").read_text())["metrics"]
    for numbers in (expected["validation"], recorded):
        assert [found[key] for key in ("top1", "top5", "examples")] == [
            numbers[key] for key in ("top1", "top5", "examples")
        ]
        assert found["loss"] == pytest.approx(numbers["loss"], rel=1e-5)


def test_predicts_as_then(predictor: Predictor, expected: dict[str, Any], pictures: list[Path]) -> None:
    found = list(predictor.predict(pictures, top_k=10))
    assert len(found) == len(expected["predictions"])
    for item, then in zip(found, expected["predictions"], strict=True):
        check({"classes": item.classes, "probabilities": item.probabilities}, then)


def test_resumes_where_it_was_stopped(run: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    folder = unpacked(run.name, tmp_path / "run")
    recipe = load(folder / "recipe.yaml")
    with pytest.raises(RequestError, match=r"was begun with train.epochs=3, not 5"):
        run_training(load(folder / "recipe.yaml", {"train.epochs": "5"}), folder, resume=True)
    before = (folder / "metrics.jsonl").read_text()
    result = run_training(recipe, folder, resume=True)
    assert (result["steps"], result["epochs"], result["stopped"]) == (66, 3, None)
    assert f"going on from step {expected['stopped_at']}, into {folder}" in (folder / "log.txt").read_text()
    after = (folder / "metrics.jsonl").read_text()
    assert after.startswith(before)
    steps = [line["step"] for line in map(json.loads, after[len(before) :].splitlines()) if line["kind"] == "train"]
    assert steps == list(range(expected["stopped_at"] + 5, 66, 5))
    # Rounding differs between processors, and steps add to that.
    assert result["loss"] == pytest.approx(expected["whole"]["loss"], rel=1e-3)
    assert result["top1"] == pytest.approx(expected["whole"]["top1"], abs=0.01)
    assert evaluate_run(run=folder).numbers["top1"] == result["top1"]


def test_explains(run: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--run", str(run), str(pictures[0]), "--output", str(tmp_path / "maps"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["explanations"]
    assert found["error"] is None
    assert np.asarray(Image.open(found["output"])).std() > 0
    assert all(np.isfinite(peak) and peak > 0 for peak in found["maps"].values())
    assert found["maps"]


def test_reports(run: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    page, left_out = write_report(unpacked(run.name, tmp_path / "run"))
    assert left_out == []
    text = page.read_text()
    assert f"{100 * expected['validation']['top1']:.2f} %" in text
    for words in ("Confusion matrix", "Attention", "GMACs"):
        assert words in text


def test_exports(predictor: Predictor, tmp_path: Path) -> None:
    done = export(predictor, tmp_path / "model.zip", format="stablehlo", platforms=("cpu",))
    assert done.deviation < 1e-5
    assert done.config["classes"] == list("0123456789")


def test_serves(predictor: Predictor, expected: dict[str, Any], pictures: list[Path]) -> None:
    with TestClient(make_app(ServedModel(predictor, "golden"), Settings(max_batch=1))) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.02)
        files = [("images", (file.name, file.read_bytes())) for file in pictures]
        answer = client.post("/v1/predict", files=files, data={"top_k": "10"})
    assert answer.status_code == 200
    for found, then in zip(answer.json()["predictions"], expected["predictions"], strict=True):
        check(found, then)
