"""`crosscale export`: what it prints, writes and refuses."""

import json
import zipfile

import pytest

from crosscale.cli.main import main


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


@pytest.mark.slow
def test_a_deviation_beyond_the_tolerance_fails(capsys, tiny_run, tmp_path):
    said = export(capsys, "--run", tiny_run, "--format", "onnx", tmp_path / "a.onnx", "--tolerance", "1e-12", status=1)
    assert "differ from the model's by" in said.err
    assert list(tmp_path.iterdir()) == []
