"""`crosscale export`: what it prints, writes and refuses."""

import json
import zipfile

import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.errors import RequestError
from crosscale.export.compare import compare
from crosscale.export.int8 import Int8
from crosscale.predictor import Predictor


def export(capsys, *words, status=0):
    assert main(["export", *map(str, words)]) == status
    return capsys.readouterr()


def test_json_and_text_tell_the_deviation(capsys, tiny_run, tmp_path):
    said = export(capsys, "--run", tiny_run, "--format", "stablehlo", tmp_path / "a.zip", "--json")
    result = json.loads(said.out)
    assert result["deviation"] < 1e-5
    assert result["pictures"] == 4
    assert result["size"] == (tmp_path / "a.zip").stat().st_size
    assert zipfile.is_zipfile(result["file"])
    said = export(capsys, "--run", tiny_run, "--format", "stablehlo", "--platforms", "cpu", tmp_path / "b.zip")
    assert "checked on 4 pictures: largest deviation" in said.out
    assert "in:  uint8 batch x 16 x 16 x 1, 0..255" in said.out
    assert said.err.splitlines() == [
        f"crosscale export: {phase} ..."
        for phase in (
            "tracing the model and lowering it to stablehlo",
            "loading the file that was written",
            "comparing its outputs with the model's on photographs",
        )
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["OUT", "--run", "RUN"], "the following arguments are required: --format"),
        (["--run", "RUN", "--format", "onnx"], "required: OUT"),
        (["OUT", "--run", "RUN", "--format", "tflite"], "invalid choice: 'tflite'"),
        (["OUT", "--run", "gone", "--format", "onnx"], "--run gone: no such folder"),
        (["OUT", "--run", "RUN", "--format", "stablehlo", "--platforms", "abacus"], "abacus"),
        (["OUT", "--run", "RUN", "--format", "onnx", "--platforms", "cpu"], "--platforms goes with --format stablehlo"),
        (
            ["OUT", "--run", "RUN", "--format", "onnx", "--platforms", "cpu,cuda,tpu"],
            "--platforms goes with --format stablehlo",
        ),
        (
            ["OUT", "--run", "RUN", "--format", "stablehlo", "--platforms", ""],
            "--platforms names none: give some of cpu, cuda, tpu",
        ),
        (
            ["OUT", "--run", "RUN", "--format", "stablehlo", "--opset", "9"],
            "--opset goes with --format onnx and openvino",
        ),
        (["OUT", "--run", "RUN", "--format", "litert", "--opset", "23"], "litert has no ONNX operators"),
        (["OUT", "--run", "RUN", "--format", "onnx", "--batch-size", "3"], "--batch-size goes with --compare"),
        (["OUT", "--run", "RUN", "--format", "onnx", "--max-drop", "0"], "go with --int8 and --compare"),
        (
            ["OUT", "--run", "RUN", "--format", "onnx", "--int8", "--tolerance", "0.1"],
            "--tolerance is for float32 programs; --max-drop judges int8 ones",
        ),
        (["--run", "RUN", "--compare", "--platforms", "tpu"], "--platforms goes with --format stablehlo; --compare"),
        (["--run", "RUN", "--compare", "--max-drop", "0"], "--max-drop goes with --int8; --compare prints"),
        (["OUT", "--run", "RUN", "--format", "stablehlo", "--any-size"], "CrossViT has one picture size"),
        (["gone/x.zip", "--run", "RUN", "--format", "stablehlo"], "its folder does not exist"),
        (["OUT", "--run", "RUN", "--format", "stablehlo", "--tolerance", "2"], "between 0 and 1"),
    ],
)
def test_wrong_requests_are_one_line(capsys, tiny_run, tmp_path, words, message):
    places = {"RUN": str(tiny_run), "OUT": str(tmp_path / "out")}
    said = export(capsys, *(places.get(word, word) for word in words), status=2)
    assert said.out == ""
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("crosscale export: error: ")
    assert message in last
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_takes_the_tolerance_and_the_operator_set(tiny_run, monkeypatch):
    asked = []

    def export(predictor, file, **how):
        asked.append((how["tolerance"], how["opset"]))
        raise RequestError("enough")

    monkeypatch.setattr("crosscale.export.compare.export", export)
    monkeypatch.setattr("crosscale.export.compare.measured", lambda program, run, source: {"top1": 1.0})
    monkeypatch.setattr("crosscale.export.compare.quickest", lambda runs, batch, seconds: {})
    pictures = np.zeros((2, 16, 16, 1), np.uint8)
    rows = compare(Predictor.from_run(tiny_run), Int8(pictures, []), seconds=0.0, opset=18, tolerance=1e-5)
    assert set(asked) == {(1e-5, 18)}
    assert {row.reason for row in rows[1:]} == {"enough"}


@pytest.mark.slow
def test_a_deviation_beyond_the_tolerance_fails(capsys, tiny_run, tmp_path):
    said = export(capsys, "--run", tiny_run, "--format", "onnx", tmp_path / "a.onnx", "--tolerance", "1e-12", status=1)
    assert "differ from the model's by" in said.err
    assert list(tmp_path.iterdir()) == []
