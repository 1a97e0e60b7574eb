"""CrossViT against timm: committed goldens by default, live with `-m parity`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import crosscale
from benchmarks import parity
from benchmarks.parity import deviation
from crosscale.engine.layer_decay import counted_layers, layer_scales
from crosscale.pretrained import from_variables, parameter_shapes, to_variables
from crosscale.trees import flatten, unflatten
from tests.variants import variants

GOLDENS = Path(__file__).parent.parent / "golden" / "crossvit"
NARROW = {
    "embed_dim": (8, 16),
    "num_heads": (2, 2),
    "mlp_ratio": (2.0, 1.5, 1.0),
    "num_classes": 5,
    "qkv_bias": True,
}
TOPOLOGIES = {
    "plain": {"depth": ((1, 2, 0),) * 3},
    "dagger": {"depth": ((1, 2, 0),) * 2, "multi_conv": True},
    "dagger_408": {"depth": ((1, 2, 0),) * 2, "patch_size": (6, 12)},
    "deep_fusion": {"depth": ((2, 1, 2),) * 2, "qkv_bias": False},
    "center_crop": {"depth": ((1, 1, 1),), "rescale": "center_crop"},
    "non_square": {"depth": ((1, 1, 0),) * 2, "in_channels": 2},
    "unequal_heads": {"depth": ((1, 1, 0),) * 2, "num_heads": (2, 4)},
}


def golden(name):
    arrays = np.load(GOLDENS / f"{name}.npz")
    sizes = [tuple(map(int, s)) for s in arrays["sizes"]]
    fields = {**NARROW, "patch_size": (12, 16), "img_size": sizes, **TOPOLOGIES[name]}
    weights = {k.removeprefix("weights/"): arrays[k] for k in arrays.files if k.startswith("weights/")}
    return crosscale.CrossViT(**fields), weights, arrays


@pytest.mark.parametrize("name", variants(TOPOLOGIES, ["dagger", "non_square"]))
def test_golden(name):
    model, weights, arrays = golden(name)
    variables = to_variables(weights, model, "timm", name)
    images = jnp.asarray(arrays["images"].transpose(0, 2, 3, 1))
    features = jax.jit(lambda v, x: model.apply(v, x, method="features"))(variables, images)
    assert deviation(jax.jit(model.apply)(variables, images), arrays["logits"]) < 1e-5
    for b, (pooled, spatial) in enumerate(zip(features.pooled, features.maps, strict=True)):
        assert deviation(pooled, arrays[f"tokens/{b}"][:, 0]) < 1e-5
        assert deviation(spatial.reshape(len(spatial), -1, pooled.shape[-1]), arrays[f"tokens/{b}"][:, 1:]) < 1e-5


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_names_round_trip_bit_exact(name):
    model, weights, _ = golden(name)
    back = from_variables(to_variables(weights, model, None, name), model, "timm")
    assert set(back) == set(weights)
    for key, value in weights.items():
        assert back[key].tobytes() == np.ascontiguousarray(value).tobytes(), key


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*.npz")), ids=lambda p: p.stem)
def test_goldens_stay_small(path):
    assert path.stat().st_size < 300_000


# ---- live against timm ----


@pytest.mark.parity
@pytest.mark.parametrize("name", [n for n in parity.comparable() if not n.startswith("crossformer")])
def test_live(name):
    pytest.importorskip("timm")
    row = parity.compare(name)
    assert row["params"] == row["published_params"]
    assert row["logits"] < 1e-4
    assert row["pooled"] < 1e-4


@pytest.mark.parity
def test_live_gradients():
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    reference, images, model, variables = parity.reference_and_ours("crossvit_9_240", batch=2)
    labels = np.array([3, 700])
    torch.nn.functional.cross_entropy(reference(images), torch.from_numpy(labels)).backward()
    theirs = flatten(
        to_variables({k: p.grad.numpy() for k, p in reference.named_parameters()}, model, "timm", "grad")["params"]
    )

    def loss(params):
        logits = model.apply({"params": params}, jnp.asarray(images.numpy().transpose(0, 2, 3, 1)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()

    ours = flatten(jax.jit(jax.grad(loss))(variables["params"]))
    for name, gradient in ours.items():
        if "attention/k/bias" in name:  # cancels in the softmax: exactly zero here, rounding noise there
            assert np.abs(gradient).max() == 0
            assert np.abs(theirs[name]).max() < 1e-6
            continue
        difference = np.linalg.norm(gradient - theirs[name]) / np.linalg.norm(theirs[name])
        assert difference < 1e-3, f"{name}: {difference:.2e}"


@pytest.mark.parity
@pytest.mark.parametrize("name", ["crossvit_9_240", "deit_tiny_224"])
def test_layer_wise_decay_is_timms(name):
    """Every tensor under timm's name holds its factor, and all agree with timm's groups of parameters."""
    reference, _, model, _ = parity.reference_and_ours(name, batch=1)
    from timm.optim import param_groups_layer_decay

    shapes = parameter_shapes(model)
    factors = layer_scales(shapes, 0.65, counted_layers(model, "timm"))
    filled = unflatten({key: np.full(shape, factors[key], np.float32) for key, shape in shapes.items()})
    ours = {key: value.flat[0] for key, value in from_variables({"params": filled}, model, "timm").items()}
    names = {id(value): key for key, value in reference.named_parameters()}
    groups = param_groups_layer_decay(reference, layer_decay=0.65)
    theirs = {names[id(value)]: group["lr_scale"] for group in groups for value in group["params"]}
    assert ours == pytest.approx(theirs)
