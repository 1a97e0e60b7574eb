"""ONNX files against the predictor, also in a process that has onnxruntime but neither jax nor this package."""

import json

import numpy as np
import pytest
from isolated import link_library, run_isolated
from test_stablehlo import probabilities

from crosscale.cli.main import main
from crosscale.errors import RequestError
from crosscale.export import export
from crosscale.export.onnx import open_onnx

pytest.importorskip("jax2onnx")
onnx = pytest.importorskip("onnx")

ALONE = """
import json
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
outputs = session.run(None, {"images": np.load(sys.argv[3])})[0]
properties = session.get_modelmeta().custom_metadata_map
print(json.dumps({"properties": properties, "outputs": outputs.tolist(), "loaded": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def artifact(digits, tmp_path_factory):
    return export(digits, tmp_path_factory.mktemp("onnx") / "digits.onnx", format="onnx")


@pytest.mark.slow
def test_the_file_is_valid_and_says_what_it_takes(artifact, digits):
    model = onnx.load(artifact.file)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    (given,) = model.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    assert (given.name, dims) == ("images", ["batch", 16, 16, 1])
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [value.name for value in model.graph.output] == ["probabilities"]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["classes"]) == list(digits.classes)
    assert json.loads(properties["input_spec"])["crop_pct"] == 1.0
    assert artifact.deviation < 1e-5


@pytest.mark.slow
def test_runs_with_onnxruntime_alone(artifact, digits, tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    link_library("onnxruntime", library)
    pictures = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pictures)
    said = json.loads(run_isolated(ALONE, library, artifact.file, tmp_path / "images.npy"))
    assert not [name for name in said["loaded"] if name.split(".")[0] in ("crosscale", "jax", "flax")]
    assert json.loads(said["properties"]["classes"]) == list(digits.classes)
    np.testing.assert_allclose(said["outputs"], probabilities(digits, pictures), atol=1e-6)


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_a_batch_of_none_is_an_error_of_the_runtime(artifact, pictures):
    run = open_onnx(artifact.file)  # in this process, which it must not end
    images = np.zeros((pictures, 16, 16, 1), np.uint8)
    if pictures:
        assert run(images).shape == (pictures, 10)
    else:
        with pytest.raises(Exception, match="out of data bounds"):
            run(images)


@pytest.mark.slow
def test_crossformer_and_raw(crossformer, tmp_path):
    result = export(crossformer, tmp_path / "cf.onnx", format="onnx", preprocessing=False)
    assert {node.op_type for node in onnx.load(result.file).graph.node} <= TENSORRT
    assert result.deviation < 1e-4
    assert result.config["output"]["name"] == "logits"


# Of the operators that docs/operators.md of onnx/onnx-tensorrt marks as supported by TensorRT 8.4, those that may occur
# here. It is no run of the parser, which needs a card.
TENSORRT = {
    "Add", "Cast", "Concat", "Conv", "Div", "Dropout", "Einsum", "Erf", "Exp", "Expand", "Gather", "GatherND", "Gemm",
    "Less", "MatMul", "Max", "Mean", "Min", "Mul", "Neg", "Pad", "Pow", "Range", "ReduceMax", "ReduceMean", "ReduceSum",
    "ReduceSumSquare", "Relu", "Reshape", "Shape", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip


@pytest.mark.slow
def test_tensorrt_lists_the_operators(artifact):
    used = {node.op_type for node in onnx.load(artifact.file).graph.node}
    assert used <= TENSORRT, used - TENSORRT
    assert max(entry.version for entry in onnx.load(artifact.file).opset_import) <= 25


@pytest.mark.parametrize("opset", [3, 99])
def test_a_set_of_operators_that_cannot_be_written_is_one_line(tiny_run, tmp_path, opset, capsys):
    words = ["export", "--run", str(tiny_run), "--format", "onnx", "--opset", str(opset), str(tmp_path / "x.onnx")]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert f"--opset {opset}: the model cannot be written with this operator set" in line
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
def test_an_open_size_is_refused(crossformer, tmp_path):
    with pytest.raises(RequestError, match="an ONNX file has one picture size"):
        export(crossformer, tmp_path / "cf.onnx", format="onnx", any_size=True)
    assert list(tmp_path.iterdir()) == []
