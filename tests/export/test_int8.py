"""int8 programs: what they are judged by, refusals, and real ones of a digits model; the comparison of formats."""

import json

import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.contracts import Record
from crosscale.errors import RequestError, WorkError
from crosscale.export.accuracy import Spaced, lost, measured
from crosscale.export.compare import Compared
from crosscale.export.export import export
from crosscale.export.held_out import Asked, open_int8
from crosscale.export.int8 import Int8, judge
from crosscale.export.program import Program
from crosscale.tasks.measure import Measure


class Digits:
    """Forty pictures of noise, labelled as the model answers but for every tenth."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, predictor):
        self.images = np.random.default_rng(5).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
        answers = np.asarray(predictor.outputs(self.images)).argmax(-1)
        self.labels = np.where(np.arange(40) % 10 == 0, (answers + 1) % 10, answers)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Record(f"noise/{index}", self.images[index], int(self.labels[index]))


@pytest.fixture(scope="module")
def source(digits):
    return Digits(digits)


def exact(predictor):
    """The program as it should be: probabilities of the model's outputs."""
    return lambda images: np.asarray(predictor.task.activate(np.asarray(predictor.outputs(images))))


def test_accuracy_is_the_task_s_own(digits, source):
    numbers = measured(Program(digits), exact(digits), source)
    assert (numbers["top1"], numbers["examples"]) == (0.9, 40)


def test_spaced_over_the_source(source):
    some = Spaced(source, 4)
    assert [some[place].id for place in range(len(some))] == [f"noise/{index}" for index in (0, 10, 20, 30)]
    assert len(Spaced(source, 100)) == 40


def test_what_is_lost():
    share = Measure("top-1", higher_is_better=True, share=True)
    assert lost(share, 0.9, 0.88) == pytest.approx(2.0)
    assert lost(share, 0.9, 0.92) == pytest.approx(-2.0)
    assert lost(Measure("MAE", higher_is_better=False), 4.0, 5.0) == pytest.approx(25.0)


def test_more_than_may_be_lost_is_refused_with_the_numbers(digits, source):
    program = Program(digits)

    def worse(images):
        """Every picture's answer moves by one class where the picture is darker than most."""
        found = exact(digits)(images)
        return np.where(images.mean((1, 2, 3))[:, None] < 122, np.roll(found, 1, -1), found)

    kept = judge(program, exact(digits), exact(digits), Int8(source.images, source))
    assert (kept.measure, kept.before, kept.after, kept.drop, kept.examples) == ("top1", 0.9, 0.9, 0, 40)
    with pytest.raises(WorkError, match=r"int8 loses \d+\.\d\d points of top-1, more than --max-drop 1: 90\.00 % in"):
        judge(program, exact(digits), worse, Int8(source.images, source))
    judged = judge(program, exact(digits), worse, Int8(source.images, source, max_drop=100))
    assert judged.after == pytest.approx(judged.before - judged.drop / 100)


def test_pictures_are_the_user_s(digits, tiny_run):
    found = open_int8(digits, None, Asked("digits", calibration=6, most=20))
    assert found.pictures.shape == (6, 16, 16, 1)
    assert (len(found.source), found.max_drop) == (20, 1.0)
    with pytest.raises(RequestError, match="a run brings its own, --model needs --data-dir D"):
        open_int8(digits, None, Asked())
    with pytest.raises(RequestError, match="does not say what it was trained on; give --data-dir"):
        open_int8(digits, tiny_run, Asked())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["OUT.zip", "--format", "stablehlo", "--int8"], "--int8 goes with --format onnx and --format openvino, not"),
        (["OUT.onnx", "--format", "onnx", "--max-drop", "2"], "go with --int8 and --compare"),
        (["OUT.onnx", "--format", "onnx", "--int8", "--max-drop", "-1"], "expected points in 0..100"),
        (["OUT.onnx", "--compare"], "--compare writes nothing: leave OUT"),
        (["--compare"], "does not say what it was trained on"),
    ],
)
def test_wrong_requests(words, message, tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--data-dir", "digits"] if "--int8" in words else []
    assert main(["export", "--run", str(tiny_run), *words, *data]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_formats(digits, source, tiny_run, capsys, monkeypatch):
    rows = [
        Compared("jax", 34_000_000, 0.0, 0.9, 35.0),
        Compared("onnx int8", 9_000_000, 0.02, 0.875, 61.5),
        Compared("litert", reason="--format litert needs litert-converter"),
    ]
    monkeypatch.setattr("crosscale.export.compare.compare", lambda *_, **__: rows)
    words = ["export", "--run", str(tiny_run), "--compare", "--data-dir", "digits", "--held-out", "40"]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())  # a title is folded to the table's width
    assert shown.startswith("top-1 on 40 held-out images; images/s at best, in batches of 8 ")
    assert "onnx int8 9.0 2e-02 87.50 % 61.5" in shown
    assert shown.endswith("litert is missing: --format litert needs litert-converter")
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["measure"], said["examples"], said["batch_size"]) == ("top1", 40, 8)
    assert said["formats"][1]["accuracy"] == 0.875


@pytest.mark.slow
def test_a_real_int8_program(digits, source, tmp_path):
    pytest.importorskip("jax2onnx")
    import onnx

    result = export(digits, tmp_path / "a.onnx", format="onnx", int8=Int8(source.images, source, max_drop=100))
    model = onnx.load(result.file)
    kinds = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" in kinds
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in model.graph.initializer)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert (properties["products"], json.loads(properties["classes"])[3]) == ("int8", "3")
    assert 0 < result.deviation < 0.2
    assert result.int8["calibrated_on"] == 40
    assert result.int8["before"] == 0.9
    raw = measured(Program(digits, activated=False), lambda images: np.asarray(digits.outputs(images)), source)
    assert raw["loss"] == pytest.approx(measured(Program(digits), exact(digits), source)["loss"], rel=1e-5)
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(WorkError, match="more than --max-drop"):
        export(digits, tmp_path / "b.onnx", format="onnx", int8=Int8(source.images, source, max_drop=-50.0))
    assert list(tmp_path.iterdir()) == []
