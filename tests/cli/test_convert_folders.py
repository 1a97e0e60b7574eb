"""Folders with `crosscale convert`: those of others, what is kept of a run, and what is never written."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.numpy import load_file

from crosscale.artifact import read_artifact, write_artifact
from crosscale.cli.main import main
from crosscale.pretrained import load_weights
from crosscale.pretrained.restore import restore_model
from tests.cli.test_convert import FIELDS, convert

MODEL = ["--model", "crossvit", *FIELDS, "--model.options.in_channels", 1]


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the run, as training leaves it."""
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("data: {}\n")
    return tmp_path / "run"


def changed(run, **values):
    write_artifact(run / "best", replace(read_artifact(run / "best"), **values))


@pytest.mark.parametrize("config", [None, {"architecture": "crossvit_9_240", "num_classes": 10}])
def test_a_folder_of_another_project_with_the_model_given(capsys, tiny_run, tmp_path, config):
    folder = tmp_path / "theirs"
    folder.mkdir()
    convert(capsys, tiny_run, folder / "model.safetensors", "--names", "timm")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    convert(capsys, *MODEL, folder, tmp_path / "out.safetensors")
    convert(capsys, tiny_run, tmp_path / "own.safetensors")
    own, out = load_file(tmp_path / "own.safetensors"), load_file(tmp_path / "out.safetensors")
    assert all(out[name].tobytes() == own[name].tobytes() for name in own)
    error = convert(capsys, folder, tmp_path / "again.safetensors", status=2).err
    assert f"{folder}: this folder does not say its model; give --model M" in error
    assert "--run" not in error


def test_folders_without_weights(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    error = convert(capsys, tmp_path / "empty", tmp_path / "x.safetensors", status=2).err
    assert "a folder without model.safetensors or best/model.safetensors" in error
    (tmp_path / "empty" / "recipe.yaml").touch()
    error = convert(capsys, tmp_path / "empty", tmp_path / "x.safetensors", status=2).err
    assert "this run has no best weights yet" in error


@pytest.mark.parametrize("mark", ["recipe", "step", "data"])
def test_a_runs_own_best_weights_are_never_replaced(capsys, run, mark):
    if mark != "recipe":
        (run / "recipe.yaml").unlink()
        changed(run, **{"step": {"step": 3}, "data": {"data": {"dir": "digits"}}}[mark])
    before = {file.name: file.read_bytes() for file in (run / "best").iterdir()}
    for words in (["--folder"], []):
        target = run / "best" if words else run / "best" / "other.safetensors"
        error = convert(capsys, run, target, *words, status=2).err
        assert f"{run / 'best'}: a run keeps its best weights there; give a new folder" in error
    assert {file.name: file.read_bytes() for file in (run / "best").iterdir()} == before


def test_a_folder_may_be_written_anew(capsys, run, tmp_path):
    for _ in range(2):
        convert(capsys, run, tmp_path / "hub", "--folder")


@pytest.mark.parametrize("named", [False, True])
def test_a_calibrated_run_keeps_its_temperature_and_threshold(capsys, run, tmp_path, named):
    changed(run, task_options={"temperature": 2.5, "reject": 0.8})
    convert(capsys, *(MODEL if named else ()), run, tmp_path / "hub", "--folder")
    assert read_artifact(tmp_path / "hub").task_options == {"temperature": 2.5, "reject": 0.8}
    assert read_artifact(tmp_path / "hub").input_spec == read_artifact(run / "best").input_spec


def test_a_run_of_several_labels_keeps_its_thresholds(capsys, run, tmp_path):
    limits = [0.1 * i for i in range(10)]
    changed(run, task="multilabel", task_options={"thresholds": limits})
    convert(capsys, run, tmp_path / "hub", "--folder")
    assert read_artifact(tmp_path / "hub").task_options["thresholds"] == limits


def test_a_regressions_folder_is_not_offered_to_timm(capsys, run, tmp_path):
    numbers = {"mean": [5.0] * 10, "std": [2.0] * 10, "units": ["cm"] * 10}
    changed(run, task="regression", task_options=numbers)
    said = json.loads(convert(capsys, run, tmp_path / "hub", "--folder", "--json").out)
    assert said["names"] == "crosscale"
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "timm" not in card
    assert "library_name: crosscale" in card
    assert "The weights have crosscale's own names: the quantities need its head" in card
    artifact = read_artifact(tmp_path / "hub")
    assert "architecture" not in artifact.extra
    load_weights(tmp_path / "hub", restore_model(artifact, "hub"), "crosscale")
    assert {name: artifact.task_options[name] for name in numbers} == numbers


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "OUT", "--folder", "--overwrite"], "--overwrite replaces a file"),
        (["--pretrained", "--model", "crossvit_9_240", "OUT", "--from-names", "timm"], "say how to read IN"),
        (["--pretrained", "--model", "crossvit_9_240", "OUT", "--weights-key", "model"], "say how to read IN"),
    ],
)
def test_options_that_would_do_nothing(capsys, run, tmp_path, words, message):
    places = {"RUN": str(run), "OUT": str(tmp_path / "out")}
    assert main(["convert", *(places.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err
