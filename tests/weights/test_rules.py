"""Name rules: exactly once, both directions, every refusal named."""

import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import crosscale
from crosscale import RequestError
from crosscale.pretrained.naming import from_variables, parameter_shapes, rename, variables_of
from crosscale.weights.files import read_safetensors, write_safetensors
from crosscale.weights.rules import Dropped, Rule, dense, to_ours, to_theirs
from tests.seeded import seeded_variables

RULES = [*dense("fc{i}", "layer_{i}/linear"), Rule("scale", "norm/scale"), Dropped("fc{i}.index")]


def test_both_directions():
    theirs = {
        "fc0.weight": np.arange(6.0).reshape(2, 3),
        "fc0.bias": np.zeros(2),
        "scale": np.ones(()),
        "fc0.index": np.ones(1),
    }
    ours = to_ours(RULES, theirs)
    assert set(ours) == {"layer_0/linear/kernel", "layer_0/linear/bias", "norm/scale"}
    assert ours["layer_0/linear/kernel"].flags.c_contiguous
    back = to_theirs(RULES, ours)
    assert set(back) == set(theirs) - {"fc0.index"}
    np.testing.assert_array_equal(back["fc0.weight"], theirs["fc0.weight"])


def test_no_rule_and_two_rules():
    with pytest.raises(RequestError, match=r"no rule for fc0\.gain"):
        to_ours(RULES, {"fc0.gain": np.zeros(1)})
    with pytest.raises(RequestError, match="fits 2 rules"):
        to_ours([*RULES, Rule("fc{j}.bias", "other/{j}")], {"fc0.bias": np.zeros(1)})
    with pytest.raises(RequestError, match="already became norm/scale"):
        to_ours([*RULES, Rule("gain", "norm/scale")], {"scale": np.ones(1), "gain": np.ones(1)})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = crosscale.CrossViT(
        img_size=32, patch_size=(4, 8), embed_dim=(8, 16), depth=((1, 1, 0),), num_heads=2, num_classes=3
    )
    return model, seeded_variables(model), tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("names", ["crosscale", "timm", "ibm"])
def test_files_round_trip(saved, names):
    import jax

    model, variables, folder = saved
    crosscale.save_weights(folder / f"{names}.safetensors", variables, model, names=names)
    again = crosscale.load_weights(folder / f"{names}.safetensors", model)
    for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(again), strict=True):
        assert np.asarray(a).tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("norm.0.bias"), "missing backbone/norm_0/bias"),
        (lambda f: f.update(extra=np.zeros(1, np.float32)), "first extra"),
        (
            lambda f: f.update({"norm.0.bias": np.zeros(9, np.float32)}),
            r"backbone/norm_0/bias has shape \(9,\)",
        ),
        (lambda f: f.update({"norm.7.bias": np.zeros(8, np.float32)}), "unknown backbone/norm_7/bias"),
    ],
)
def test_wrong_files_are_refused(saved, tmp_path, change, message):
    from crosscale.pretrained import from_variables

    model, variables, _ = saved
    flat = from_variables(variables, model, "timm")
    change(flat)
    save_file(flat, tmp_path / "x.safetensors")
    with pytest.raises(RequestError, match=message) as error:
        crosscale.load_weights(tmp_path / "x.safetensors", model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x10", b"not weights at all", b"\xff" * 64])
def test_broken_files(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="not a whole safetensors file"):
        read_safetensors(path)


def test_cut_off_file(tmp_path):
    path = tmp_path / "cut.safetensors"
    write_safetensors(path, {"a": np.arange(1000.0)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RequestError, match="not a whole safetensors file"):
        read_safetensors(path)


def test_missing_file_and_unknown_scheme(saved, tmp_path):
    model, variables, _ = saved
    with pytest.raises(RequestError, match="no such weight file"):
        crosscale.load_weights(tmp_path / "none.safetensors", model)
    with pytest.raises(RequestError, match="did you mean 'timm'"):
        crosscale.save_weights(tmp_path / "x.safetensors", variables, model, names="tim")


@pytest.mark.parametrize("names", ["crosscale", "timm", "ibm"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("int8", "holds int8 numbers under {}: quantised weights cannot be read; save them as float32 or bfloat16"),
        ("uint8", "quantised weights"),
        ("bool", "quantised weights"),
        ("complex64", "holds complex64 numbers under {}: complex numbers cannot be read"),
    ],
)
def test_parameters_that_are_no_floats(saved, tmp_path, names, kind, message):
    model, variables, _ = saved
    crosscale.save_weights(tmp_path / "w.safetensors", variables, model, names=names)
    flat, _ = read_safetensors(tmp_path / "w.safetensors")
    name = next(name for name in flat if name.endswith("bias"))
    write_safetensors(tmp_path / "w.safetensors", flat | {name: flat[name].astype(kind)})
    with pytest.raises(RequestError, match=re.escape(message.format(name))) as raised:
        crosscale.load_weights(tmp_path / "w.safetensors", model)
    assert "fits" not in str(raised.value)
    with pytest.raises(RequestError, match=re.escape(message.format(name))):
        crosscale.load_weights(tmp_path / "w.safetensors", model, adapt=True)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_floats_of_every_width(saved, tmp_path, kind):
    import ml_dtypes

    model, variables, _ = saved
    crosscale.save_weights(tmp_path / "w.safetensors", variables, model)
    flat, _ = read_safetensors(tmp_path / "w.safetensors")
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else kind
    write_safetensors(tmp_path / "w.safetensors", {name: value.astype(dtype) for name, value in flat.items()})
    found = crosscale.load_weights(tmp_path / "w.safetensors", model)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))


def test_whole_numbers_beside_the_parameters():
    model = crosscale.create_model("semantic_fpn_crossformer_tiny")
    theirs = from_variables(stand_ins(model), model, "mmseg")
    counters = [name for name in theirs if name.endswith("num_batches_tracked")]
    assert counters
    assert all(theirs[name].dtype == np.int64 for name in counters)
    assert set(rename(theirs, model, "mmseg", "w")) == set(parameter_shapes(model))


def stand_ins(model):
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in parameter_shapes(model).items()}
    return variables_of(zeros, model)
