"""`crosscale validate` against accuracies counted from the library's own predictions."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.predictor import Predictor


def validate(capsys, *words, status=0):
    assert main(["validate", *map(str, words)]) == status
    return capsys.readouterr()


@pytest.fixture(scope="module")
def counted(tiny_run):
    """Loss, top-1 and top-5 on the digits' validation part, from the predictor's probabilities."""
    source = open_source("digits", "val")
    records = [source[index] for index in range(len(source))]
    predictor = Predictor.from_run(tiny_run)
    top1 = top5 = loss = 0.0
    for item, record in zip(
        predictor.predict([record.image for record in records], top_k=10, batch_size=64), records, strict=True
    ):
        rank = item.classes.index(source.classes[record.target])
        top1 += rank < 1
        top5 += rank < 5
        loss -= np.log(item.probabilities[rank])
    return {"top1": top1 / len(records), "top5": top5 / len(records), "loss": loss / len(records)}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [64, 359])
def test_json_of_a_run(capsys, tiny_run, counted, batch_size):
    captured = validate(capsys, "--run", tiny_run, "--data-dir", "digits", "--batch-size", batch_size, "--json")
    result = json.loads(captured.out)
    assert result["examples"] == len(open_source("digits", "val"))
    assert result["skipped"] == 0
    assert result["images_per_second"] > 0
    assert result["top1"] == pytest.approx(counted["top1"], abs=1e-6)
    assert result["top5"] == pytest.approx(counted["top5"], abs=1e-6)
    assert result["loss"] == pytest.approx(counted["loss"], rel=1e-4)


def test_a_run_knows_its_own_data(capsys, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    file = run / "best" / "config.json"
    stored = {"dir": "digits", "val_fraction": 0.1, "seed": 3, "batch_size": 64}
    file.write_text(json.dumps({**json.loads(file.read_text()), "data": stored}))
    result = json.loads(validate(capsys, "--run", run, "--json").out)
    held_out = open_source("digits", "val", val_fraction=0.1, seed=3)
    assert result["examples"] == len(held_out) != len(open_source("digits", "val"))
    other = json.loads(validate(capsys, "--run", run, "--seed", 4, "--json").out)
    assert other["loss"] != result["loss"]


@pytest.fixture
def folder(tmp_path):
    """Two of the ten classes, in folders, three pictures each on either side."""
    source = open_source("digits", "val")
    written = {"3": 0, "7": 0}
    for index in range(len(source)):
        record = source[index]
        name = source.classes[record.target]
        if written.get(name, 6) < 6:
            place = tmp_path / "data" / ("train" if written[name] % 2 else "val") / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(record.image).save(place / f"{index}.png")
            written[name] += 1
    assert written == {"3": 6, "7": 6}
    return tmp_path / "data"


@pytest.mark.slow
def test_classes_are_matched_by_name(capsys, tiny_run, folder):
    """In the folder 3 and 7 are labels 0 and 1; in the run they are 3 and 7."""
    result = json.loads(validate(capsys, "--run", tiny_run, "--data-dir", folder, "--json").out)
    files = sorted((folder / "val").rglob("*.png"))
    predictions = Predictor.from_run(tiny_run).predict(files, top_k=5)
    hits = [file.parent.name in item.classes for file, item in zip(files, predictions, strict=True)]
    assert result["examples"] == 6
    assert result["top5"] == pytest.approx(np.mean(hits))


def test_table(capsys, tiny_run, folder):
    out = validate(capsys, "--run", tiny_run, "--data-dir", folder, "--split", "train").out
    labels = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert labels[0] == "train"
    further = ["balanced", "macro", "macro", "weighted", "AUROC", "Cohen's", "quadratic", "calibration"]
    assert labels[2:] == ["top-1", "top-5", "loss", *further, "examples", "images/s"]


def test_bad_picture_ends_the_work_or_is_counted(capsys, tiny_run, folder):
    bad = folder / "val" / "3" / "bad.png"
    bad.write_text("not a picture")
    captured = validate(capsys, "--run", tiny_run, "--data-dir", folder, "--json", status=1)
    assert captured.out == ""
    assert "bad.png: not an image" in captured.err
    assert "Traceback" not in captured.err
    captured = validate(capsys, "--run", tiny_run, "--data-dir", folder, "--on-bad-image", "skip", "--json")
    result = json.loads(captured.out)
    assert (result["examples"], result["skipped"]) == (6, 1)
    named, counted = captured.err.splitlines()
    assert named == "crosscale validate: left out: val/3/bad.png: not an image in a format that Pillow reads"
    assert counted == "crosscale validate: left out 1 of 7 pictures that did not decode"


def test_class_that_the_run_does_not_know(capsys, tiny_run, folder):
    (folder / "train" / "7").rename(folder / "train" / "seven")
    (folder / "val" / "7").rename(folder / "val" / "seven")
    captured = validate(capsys, "--run", tiny_run, "--data-dir", folder, status=2)
    assert "the class 'seven'" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of the arguments --run --model is required"),
        (["--model", "crossvit_9_240", "--weights", "F"], "--model needs --data-dir"),
        (["--model", "crossvit_9_240", "--data-dir", "digits"], "--model needs --weights FILE"),
        (["--run", "RUN"], "--data-dir"),  # this run does not say what it was trained on
        (["--run", "RUN", "--data-dir", "gone"], "gone: no such folder"),
        (["--run", "gone", "--data-dir", "digits"], "--run gone: no such folder"),
        (["--run", "RUN", "--data-dir", "digits", "--split", "test"], "invalid choice: 'test'"),
        (["--run", "RUN", "--datadir", "digits"], "unknown option '--datadir'; did you mean '--data-dir'?"),
        (
            ["--model", "crossvit_9_240", "--weights", "RUN/best/model.safetensors", "--data-dir", "digits"],
            "weights",
        ),
    ],
)
def test_wrong_requests_are_one_line(capsys, tiny_run, words, message):
    captured = validate(capsys, *(word.replace("RUN", str(tiny_run)) for word in words), status=2)
    assert captured.out == ""
    assert captured.err.startswith("crosscale validate: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_tables_of_the_classes_are_printed_and_written(capsys, tiny_run, folder, tmp_path):
    words = ["--run", tiny_run, "--data-dir", folder, "--split", "train", "--details", "--csv", tmp_path / "tables"]
    out = validate(capsys, *words).out
    assert "Accuracy per class, lowest first" in out
    assert "taken for" in out
    with (tmp_path / "tables" / "per-class.csv").open(newline="") as file:
        columns, *rows = csv.reader(file)
    assert columns == ["class", "right", "accuracy", "precision", "F1", "AUROC"]
    assert {row[0] for row in rows} == {str(digit) for digit in range(10)}
    assert (tmp_path / "tables" / "confused.csv").is_file()
