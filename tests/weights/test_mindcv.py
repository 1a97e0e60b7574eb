"""A checkpoint that MindCV and MindSpore wrote, read without either (`tests/golden/mindcv/make_goldens.py`)."""

from pathlib import Path

import jax
import numpy as np
import pytest

import crosscale
from benchmarks.parity import deviation
from crosscale.pretrained import from_variables, inspect_weights, load_weights
from crosscale.weights.files import read_tensors

GOLDEN = Path(__file__).parent.parent / "golden" / "mindcv"
FIELDS = {
    "img_size": (48, 32),
    "patch_size": (12, 16),
    "embed_dim": (8, 16),
    "depth": ((1, 2, 0), (1, 1, 0)),
    "num_heads": (2, 2),
    "mlp_ratio": (2.0, 1.5, 1.0),
    "num_classes": 5,
    "qkv_bias": True,
}


@pytest.mark.parametrize("name", ["narrow.ckpt", "narrow_crc.ckpt"])
def test_tensors_are_mindspores(name):
    flat = read_tensors(GOLDEN / name)
    with np.load(GOLDEN / "narrow.npz") as arrays:
        weights = {k.removeprefix("weights/"): arrays[k] for k in arrays.files if k.startswith("weights/")}
    assert set(flat) == set(weights)
    for key, value in weights.items():
        assert flat[key].shape == value.shape
        assert flat[key].tobytes() == value.tobytes()


def test_recognised_loaded_and_back(caplog):
    model = crosscale.CrossViT(**FIELDS)
    assert inspect_weights(GOLDEN / "narrow.ckpt", model) == ("mindcv", 148, 5)
    variables = load_weights(GOLDEN / "narrow.ckpt", model)
    assert "MindCV trained with bilinear rescaling" in caplog.text
    flat = read_tensors(GOLDEN / "narrow.ckpt")
    back = from_variables(variables, model, "mindcv")
    assert {k: v.tobytes() for k, v in back.items()} == {k: v.tobytes() for k, v in flat.items()}


def test_logits_where_the_rescaling_cannot_differ():
    model = crosscale.CrossViT(**FIELDS)
    variables = load_weights(GOLDEN / "narrow.ckpt", model)
    with np.load(GOLDEN / "narrow.npz") as arrays:
        images, logits = arrays["images"].transpose(0, 2, 3, 1), arrays["logits"]
    ours = jax.jit(model.apply)(variables, images)
    # One colour throughout: what is left is the approximate GELU and the epsilon.
    assert deviation(ours[2:], logits[2:]) < 1e-3
    # White noise: bilinear against bicubic, at its worst.
    assert 1e-2 < deviation(ours[:2], logits[:2]) < 0.2
