"""StableHLO artifacts against the predictor, also in a process that has jax but not this package."""

import io
import json
import re
import zipfile

import jax
import numpy as np
import pytest
from isolated import link_library, run_isolated
from PIL import Image

from crosscale.engine.forward import forward
from crosscale.errors import RequestError, WorkError
from crosscale.export import export
from crosscale.export.photographs import load_pictures
from crosscale.export.program import Program
from crosscale.export.stablehlo import open_stablehlo, write_stablehlo


def probabilities(predictor, pictures):
    """By class, in label order, from the predictor."""
    rows = []
    for item in predictor.predict(list(pictures), top_k=len(predictor.classes)):
        by_name = dict(zip(item.classes, item.probabilities, strict=True))
        rows.append([by_name[name] for name in predictor.classes])
    return np.array(rows)


@pytest.fixture(scope="module")
def artifact(digits, tmp_path_factory):
    file = tmp_path_factory.mktemp("stablehlo") / "digits.zip"
    return export(digits, file, format="stablehlo")


def test_outputs_equal_predict_for_every_batch(artifact, digits):
    run = open_stablehlo(artifact.file)
    pictures = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 1), dtype=np.uint8)
    for size in (1, 2, 7):
        np.testing.assert_allclose(run(pictures[:size]), probabilities(digits, pictures[:size]), atol=1e-6)
    assert artifact.deviation < 1e-5
    assert artifact.pictures == 4


def test_one_artifact_for_three_platforms_says_what_it_takes(artifact, digits):
    with zipfile.ZipFile(artifact.file) as opened:
        config = json.loads(opened.read("config.json"))
        program = jax.export.deserialize(bytearray(opened.read("program.stablehlo")))
    assert config == artifact.config | {"input_spec": config["input_spec"]}
    assert config["classes"] == list(digits.classes)
    assert config["input"]["shape"] == ["batch", 16, 16, 1]
    assert config["input"]["dtype"] == "uint8"
    assert config["output"] == {"name": "probabilities", "shape": ["batch", 10], "dtype": "float32"}
    assert config["input_spec"]["mean"] == [0.3]
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert "stablehlo.dot_general" in program.mlir_module()


@pytest.mark.slow
def test_runs_with_jax_alone(artifact, digits, tmp_path):
    """The code of the artifact's own README, where neither crosscale nor flax can be imported."""
    with zipfile.ZipFile(artifact.file) as opened:
        snippet = re.search(r"```python\n(.*?)```", opened.read("README.md").decode(), re.DOTALL)[1]
    library = tmp_path / "library"
    library.mkdir()
    link_library("jax", library)
    link_library("flatbuffers", library)  # what jax.export itself asks for
    pictures = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pictures)
    code = f"""
import numpy as np
path, images = sys.argv[2], np.load(sys.argv[3])
{snippet}
print(json.dumps({{"classes": config["classes"], "outputs": outputs.tolist(), "loaded": sorted(sys.modules)}}))
"""
    said = json.loads(run_isolated(code, library, artifact.file, tmp_path / "images.npy"))
    assert not [name for name in said["loaded"] if name.startswith(("crosscale", "flax"))]
    assert said["classes"] == list(digits.classes)
    np.testing.assert_allclose(said["outputs"], probabilities(digits, pictures), atol=1e-6)


@pytest.mark.slow
def test_raw_takes_normalised_pictures_and_gives_logits(digits, tmp_path):
    result = export(digits, tmp_path / "raw.zip", format="stablehlo", preprocessing=False, platforms=("cpu",))
    assert result.config["input"]["dtype"] == "float32"
    assert result.config["platforms"] == ["cpu"]
    picture = np.random.default_rng(2).integers(0, 256, (1, 16, 16, 1), dtype=np.uint8)
    logits = open_stablehlo(result.file)(((picture / 255 - 0.3) / 0.4).astype(np.float32))
    np.testing.assert_allclose(jax.nn.softmax(logits), probabilities(digits, picture), atol=1e-6)


def test_the_photographs_are_photographs(digits, crossformer):
    pictures = load_pictures(crossformer.spec)
    assert pictures.shape == (4, 64, 64, 3)
    assert (pictures.reshape(4, -1).std(axis=1) > 20).all()
    assert load_pictures(digits.spec).shape == (4, 16, 16, 1)


@pytest.mark.slow
def test_own_pictures_are_compared(digits, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)).save(photo)
    assert export(digits, tmp_path / "a.zip", format="stablehlo", pictures=[photo]).pictures == 1
    with pytest.raises(WorkError, match=r"gone\.png: no such file"):
        export(digits, tmp_path / "b.zip", format="stablehlo", pictures=[tmp_path / "gone.png"])
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.slow
def test_a_wrong_artifact_is_not_left_behind(digits, tmp_path, monkeypatch):
    """A weight changed by one percent on its way into the file must show, and leave what was there before alone."""
    file = tmp_path / "model.zip"
    file.write_bytes(b"the one before")
    savez = np.savez

    def damage(target, **weights):
        name = "params/head/branch_0/kernel"
        savez(target, **{**weights, name: weights[name] * 1.01})

    monkeypatch.setattr(np, "savez", damage)
    with pytest.raises(WorkError, match=r"outputs differ .* nothing was written"):
        export(digits, file, format="stablehlo")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    assert file.read_bytes() == b"the one before"


@pytest.mark.slow
def test_each_platform_finds_its_own_forms(crossformer, tmp_path):
    texts = {}
    for platforms in (("cpu",), ("cuda",), ("cpu", "cuda", "tpu")):
        file = tmp_path / f"{len(platforms)}-{platforms[0]}.zip"
        write_stablehlo(Program(crossformer), file, platforms)
        with zipfile.ZipFile(file) as opened:
            texts[platforms] = jax.export.deserialize(bytearray(opened.read("program.stablehlo"))).mlir_module()
    convolutions = {platforms: text.count("stablehlo.convolution") for platforms, text in texts.items()}
    assert convolutions[("cpu",)] == 0
    assert convolutions[("cuda",)] > 0
    assert convolutions[("cpu", "cuda", "tpu")] > 0
    softmaxes = sum(crossformer.model.depths) + 1  # the outputs' too
    assert texts[("cuda",)].count("stablehlo.exponential") == softmaxes


@pytest.mark.slow
def test_crossformer(crossformer, tmp_path):
    result = export(crossformer, tmp_path / "cf.zip", format="stablehlo")
    assert result.deviation < 1e-5
    with zipfile.ZipFile(result.file) as opened:
        assert json.loads(opened.read("config.json"))["classes"][2] == "Gal\u00e1xia"
        assert set(np.load(io.BytesIO(opened.read("weights.npz"))).files) > {"params/backbone/norm/scale"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format 'tflite': one of stablehlo, onnx"),
        ({"platforms": ("cpu", "abacus")}, "abacus"),
        ({"platforms": ()}, "give some of cpu, cuda, tpu"),
        ({"any_size": True}, "CrossViT has one picture size, 16 x 16 pixels"),
        ({"file": "gone/model.zip"}, "its folder does not exist"),
        ({"file": "."}, "is a folder"),
    ],
)
def test_wrong_requests(digits, tmp_path, options, message):
    file = tmp_path / options.pop("file", "model.zip")
    with pytest.raises(RequestError, match=message):
        export(digits, file, **{"format": "stablehlo", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_program_for_every_batch_and_size(crossformer, tmp_path):
    result = export(crossformer, tmp_path / "any.zip", format="stablehlo", any_size=True)
    assert result.config["input"]["shape"] == ["batch", *["multiple of 32, at least 160"] * 2, 3]
    run = open_stablehlo(result.file)
    model, variables, spec = crossformer.model, crossformer.variables, crossformer.spec
    for shape in ((1, 160, 160, 3), (2, 224, 192, 3)):
        pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        expected = jax.nn.softmax(jax.jit(forward, static_argnums=(0, 3))(model, variables, pictures, spec))
        np.testing.assert_allclose(run(pictures), expected, atol=1e-6)
