"""OpenVINO's and LiteRT's files against the predictor, each where its library is installed."""

import json
import sys
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
from test_int8 import Digits

from crosscale.errors import RequestError, WorkError
from crosscale.export import export, formats
from crosscale.export.compare import compare
from crosscale.export.formats import FORMATS
from crosscale.export.int8 import Int8
from crosscale.export.openvino import load_openvino


def test_what_is_not_installed_is_said(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    for name, message in (
        ("openvino", r"--format openvino needs jax2onnx; pip install 'crosscale\[openvino\]'"),
        ("litert", r"--format litert needs litert-converter; pip install 'crosscale\[litert\]'"),
    ):
        with pytest.raises(RequestError, match=message):
            export(digits, tmp_path / "m", format=name)


def test_names_end_as_the_format_wants(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: name)
    with pytest.raises(RequestError, match=r"m\.bin: a file of --format openvino ends in \.xml"):
        export(digits, tmp_path / "m.bin", format="openvino")


def test_openvino_sends_nothing(tmp_path, monkeypatch):
    """A stand-in that asks for the package of statistics as the library does."""
    (tmp_path / "openvino.py").write_text(
        "try:\n    import openvino_telemetry\nexcept ImportError:\n    sends = False\nelse:\n    sends = True\n"
    )
    (tmp_path / "openvino_telemetry.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("openvino", "openvino_telemetry"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert load_openvino().sends is False
    assert "openvino_telemetry" not in sys.modules
    assert load_openvino().sends is False
    del sys.modules["openvino"]


@pytest.mark.slow
def test_openvino(digits, tmp_path):
    if find_spec("openvino") is None:
        pytest.skip("no openvino")
    openvino = load_openvino()
    result = export(digits, tmp_path / "m.xml", format="openvino")
    assert {path.name for path in tmp_path.iterdir()} == {"m.xml", "m.bin"}
    assert result.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert result.deviation < 1e-5
    model = openvino.Core().read_model(result.file)
    assert json.loads(model.get_rt_info(["crosscale", "classes"]).astype(str)) == list(digits.classes)


@pytest.mark.slow
def test_litert(digits, tmp_path):
    pytest.importorskip("litert_converter")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    result = export(digits, tmp_path / "m.tflite", format="litert")
    assert result.deviation < 1e-5
    with zipfile.ZipFile(result.file) as behind:
        config = json.loads(behind.read("config.json"))
    assert config["classes"] == list(digits.classes)
    size = [1, *digits.spec.size, digits.spec.channels]
    assert config["input"]["shape"] == size
    images = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    runner = interpreter.Interpreter(model_path=result.file).get_signature_runner()
    found = runner(images=images)[config["output"]["name"]]
    np.testing.assert_allclose(found, digits.task.activate(np.asarray(digits.outputs(images))), atol=1e-5)


@pytest.mark.slow
def test_formats_side_by_side(digits, tmp_path, monkeypatch):
    """ONNX stands for all that can be made; what fails is a row with its reason."""
    pytest.importorskip("jax2onnx")
    source = Digits(digits)

    def fail(program, file, choices):
        raise WorkError("there is no way")

    monkeypatch.setitem(FORMATS, "stablehlo", FORMATS["stablehlo"]._replace(write=fail))
    for name in ("openvino", "litert"):
        monkeypatch.delitem(FORMATS, name)
    monkeypatch.setattr("crosscale.export.compare.INT8_FORMATS", ("onnx",))
    rows = {row.name: row for row in compare(digits, Int8(source.images, source), batch_size=4, seconds=0.0)}
    assert list(rows) == ["jax", "stablehlo", "onnx", "onnx int8"]
    assert rows["stablehlo"].reason == "there is no way"
    assert rows["jax"].accuracy == rows["onnx"].accuracy == 0.9
    assert rows["onnx"].deviation < 1e-5 < rows["onnx int8"].deviation
    assert all(row.images_per_second > 0 for name, row in rows.items() if name != "stablehlo")
