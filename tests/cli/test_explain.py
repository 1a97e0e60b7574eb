"""`crosscale explain` on real files."""

import json

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.predictor import Predictor


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    source = open_source("digits", "val")
    for index, name in enumerate(["a.png", "b.png", "deep/a.png"]):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(source[100 * index].image).save(root / name)
    return root


def explain(capsys, *words, status=0):
    assert main(["explain", *map(str, words)]) == status
    return capsys.readouterr()


@pytest.mark.slow
def test_writes_a_picture_for_each_file_and_names_the_bad_one(capsys, tiny_run, digits, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    out = tmp_path / "made" / "here"
    captured = explain(capsys, "--run", tiny_run, bad, digits, "--output", out, "--json", status=1)
    result = json.loads(captured.out)
    assert result["failed"] == 1
    bad_one, *good = result["explanations"]
    assert bad_one["error"].startswith("not an image")
    assert bad_one["output"] is None
    lines = captured.err.splitlines()
    assert lines[0].startswith(f"crosscale explain: {bad}: not an image")
    assert lines[-1] == "crosscale explain: 1 of 4 files could not be used"
    # two files are called a.png: neither overwrites the other
    assert [item["output"] for item in good] == [str(out / name) for name in ("a.png", "b.png", "a-2.png")]
    expected = list(Predictor.from_run(tiny_run).predict([item["source"] for item in good], top_k=3, batch_size=3))
    for item, prediction in zip(good, expected, strict=True):
        with Image.open(item["output"]) as image:
            assert image.width > 3 * 224
        assert tuple(item["classes"]) == prediction.classes
        np.testing.assert_allclose(item["probabilities"], prediction.probabilities, atol=1e-5)
        assert {"cls/0", "cls/1", "cross/0_to_1", "rollout_across/1"} <= set(item["maps"])
        assert all(peak >= 1 for peak in item["maps"].values())
    assert Image.open(good[0]["output"]).tobytes() != Image.open(good[2]["output"]).tobytes()


@pytest.mark.slow
def test_hostile_files_are_named_one_by_one(capsys, tiny_run, digits, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "half.png").write_bytes((digits / "a.png").read_bytes()[:60])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    names = ["empty.png", "drawing.svg", "half.png", "bomb.png"]
    files = [tmp_path / name for name in names]
    captured = explain(capsys, "--run", tiny_run, *files, digits / "a.png", "--output", tmp_path / "out", status=1)
    lines = captured.err.splitlines()
    assert len(lines) == 5
    for line, file, reason in zip(lines, files, ("empty", "not an image", "", "too large"), strict=False):
        assert line.startswith(f"crosscale explain: {file}: ")
        assert reason in line
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.png"]


def test_table(capsys, tiny_run, digits, tmp_path):
    captured = explain(capsys, "--run", tiny_run, digits / "a.png", "--output", tmp_path)
    assert str(tmp_path / "a.png") in captured.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "RUN", "a.png"], "the following arguments are required: --output"),
        (["--run", "RUN", "gone.png", "--output", "o"], "gone.png: no such file or folder"),
        (["--run", "nowhere", "a.png", "--output", "o"], "--run nowhere: no such folder"),
        (["--run", "RUN", "a.png", "--output", "a.png"], "is a file"),
        (
            ["--run", "RUN", ".", "--output", "o"],
            "--output o: lies in ., where the drawings would be taken for further",
        ),
        (["--run", "RUN", "a.png", "--output", "o", "--position", "2,1"], "expected Y,X as fractions"),
        (["--run", "RUN", "a.png", "--output", "o", "--position", "0.5,0.5"], "CLS token"),
        (
            ["--run", "RUN", "a.png", "--output", "o", "--direction", "given"],
            "--direction goes with --position Y,X, the place",
        ),
        (["--run", "RUN", "a.png", "--output", "o", "--positon", "0,0"], "did you mean '--position'?"),
    ],
)
def test_wrong_requests(capsys, tiny_run, digits, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Image.open(digits / "a.png").save("a.png")
    words = [str(tiny_run) if word == "RUN" else word for word in words]
    captured = explain(capsys, *words, status=2)
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_all_maps_of_a_model_that_has_no_further_ones(capsys, tiny_run, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("crosscale.explain.describe_maps", lambda model, size: [])
    words = ["--run", tiny_run, digits / "a.png", "--output", tmp_path / "o", "--all-maps"]
    assert "--all-maps is for CrossViT; all maps of this model" in explain(capsys, *words, status=2).err
