"""CrossFormer against the released code's outputs (tests/golden/crossformer), and at sizes that code cannot
run."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.models.crossformer.block import CrossFormerBlock
from crosscale.models.crossformer.weights import OFFICIAL
from crosscale.trees import flatten, unflatten
from crosscale.weights.rules import to_ours, to_theirs
from tests.variants import variants

_PATH = Path(__file__).parents[1] / "golden" / "crossformer" / "crossformer_seeded.py"
_SPEC = importlib.util.spec_from_file_location("crossformer_seeded", _PATH)
seeded = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(seeded)

NARROW = {"embed_dim": 32, "depths": (2, 1, 1, 1), "num_heads": (2, 4, 8, 16), "num_classes": 10}
SHORT = {"embed_dim": 32, "depths": (1, 1), "num_heads": (2, 4), "group_size": 7, "interval": (8, 4)}
SHORT |= {"merge_size": ((2, 4),), "num_classes": 10}
PLUS_PLUS = {**NARROW, "group_size": (4, 4, 14, 7), "interval": (4, 2, 1, 1), "use_acl": True}
QUICK = ["v1_96x128", "alter_128"]
VARIANTS = ("tiny", "small", "base", "large", "pp_small", "pp_base", "pp_large", "pp_huge")
OTHERS = ["pp_128x288", "v1_160", "v1_224", "v1_130", "v1_256x320", "pp_160", "pp_224", "odd_112", "linear_128"]
OTHERS += ["linear_div_128", "7_14_128", *(f"crossformer_{variant}_224" for variant in VARIANTS)]


def golden(name):
    """The model, its variables and images of a golden file, with what the released code made of them."""
    meta, arrays = seeded.read(name)
    classification = meta["code"] == "classification"
    model = CrossFormer(img_size=meta["size"] if classification else 224, **meta["config"])
    params = unflatten(to_ours(OFFICIAL, seeded.weights(meta["shapes"])))
    if not classification:  # a backbone alone, whose maps need no norm at the end
        width = model.config.widths[-1]
        params["backbone"]["norm"] = {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
    images = seeded.images(meta["batch"], model.in_channels, meta["size"])
    return model, {"params": params}, images, meta, arrays


def features_of(model):
    return jax.jit(lambda v, x: model.apply(v, x, method="features"))


def head(model, variables, features):
    return model.apply(variables, features, method=lambda m, f: m.head(f))


@pytest.mark.parametrize("name", variants(QUICK + OTHERS, QUICK))
def test_outputs_equal_the_released_code(name):
    model, variables, images, _, arrays = golden(name)
    features = features_of(model)(variables, images)
    assert len(features.maps) == sum(key.startswith("map_") for key in arrays)
    for i, ours in enumerate(features.maps):
        assert seeded.deviation(ours[..., :: arrays[f"step_{i}"]], arrays[f"map_{i}"]) < 1e-5
    if "logits" in arrays:
        assert seeded.deviation(features.pooled[0], arrays["pooled"]) < 1e-5
        assert seeded.deviation(head(model, variables, features), arrays["logits"]) < 1e-5


def test_gradients_equal_the_released_code():
    model, variables, images, meta, arrays = golden("pp_160")

    def loss(variables, images):
        logits = model.apply(variables, images)
        return (logits * seeded.cotangent(logits.shape)).sum()

    by_weight, by_image = jax.jit(jax.grad(loss, (0, 1)))(variables, images)
    assert seeded.deviation(by_image[:, ::7, ::7], arrays["grad_images"]) < 1e-4
    ours = to_theirs(OFFICIAL, {k: np.asarray(v) for k, v in flatten(by_weight["params"]).items()})
    # The last bias of a position network shifts all scores alike, and a norm over the two channels of the narrowest
    # one is a sign: such gradients are rounding, small beside any other.
    rounding = 1e-7 * arrays["grad_norms"].max()
    for key, norm, dot in zip(meta["shapes"], arrays["grad_norms"], arrays["grad_dots"], strict=True):
        assert abs(np.linalg.norm(ours[key]) - norm) < 1e-4 * norm + rounding
        probe = seeded.array(f"probe/{key}", ours[key].shape)
        assert abs((ours[key] * probe).sum() - dot) < np.linalg.norm(probe) * (1e-4 * norm + rounding)


@pytest.mark.parametrize("name", ["short", "short_padded", "long", "long_padded", "long_whole", "cooling"])
def test_a_block_equals_the_released_one(name):
    descriptions, arrays = seeded.read("blocks")
    c = descriptions[name]
    block = CrossFormerBlock(c["heads"], c["group"], c["interval"] or 1, cooling=c["cooling"])
    values = to_ours(OFFICIAL, {f"layers.0.blocks.0.{k}": v for k, v in seeded.weights(c["shapes"]).items()})
    params = unflatten({k.removeprefix("backbone/stage_0/block_0/"): v for k, v in values.items()})
    x = seeded.array("x", (2, c["size"][0] * c["size"][1], c["dim"])).reshape(2, *c["size"], c["dim"])
    assert seeded.deviation(jax.jit(block.apply)({"params": params}, x), arrays[name]) < 1e-5


def with_seeded_weights(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    theirs = to_theirs(OFFICIAL, {k: np.zeros(v.shape) for k, v in flatten(shapes["params"]).items()})
    params = to_ours(OFFICIAL, seeded.weights({k: v.shape for k, v in theirs.items()}))
    return model, {"params": unflatten(params)}


@pytest.fixture(scope="module")
def narrow():
    return with_seeded_weights(CrossFormer(**NARROW))


@pytest.fixture(scope="module")
def short():
    """Two stages of one block: for what does not depend on the depth."""
    return with_seeded_weights(CrossFormer(**SHORT))


@pytest.mark.slow
# odd maps (100 -> 25 -> 13 -> 7), a remainder of pixels, long and thin, the smallest image
@pytest.mark.parametrize("size", variants([(100, 70), (39, 131), (32, 32)], [(39, 131)]))
def test_any_size_runs_with_the_same_weights(narrow, size):
    model, variables = narrow
    images = jnp.asarray(seeded.images(1, 3, size))
    features = features_of(model)(variables, images)
    expected = [(size[0] // 4, size[1] // 4)]
    for _ in range(3):
        expected.append(tuple((side + 1) // 2 for side in expected[-1]))
    assert [m.shape for m in features.maps] == [(1, *grid, 32 * 2**i) for i, grid in enumerate(expected)]
    assert features.pooled[0].shape == (1, 256)
    assert all(np.isfinite(m).all() for m in (*features.maps, *features.pooled))


@pytest.mark.slow
@pytest.mark.parametrize("config", [NARROW, PLUS_PLUS])
@pytest.mark.parametrize("size", variants([(224, 224), (160, 160), (256, 320), (800, 1216)], [(256, 320)]))
def test_parameters_do_not_depend_on_the_size(config, size):
    model = CrossFormer(**config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    features = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), shapes, jnp.zeros((1, *size, 3)))
    assert [m.shape[1:3] for m in features.maps] == [(size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]


@pytest.mark.slow
def test_an_odd_map_is_merged_as_if_zeros_followed(short):
    """36 pixels: a map of 9, merged to 5. The last cell must still matter."""
    model, variables = short
    run = jax.jit(lambda x: model.apply(variables, x, method="features").maps[1])
    images = jnp.asarray(seeded.images(1, 3, (36, 36)))
    changed = run(images.at[:, -1, -1].add(5.0)) - run(images)
    assert np.abs(changed[0, -1, -1]).max() > 1e-3


@pytest.mark.slow
def test_training_randomness_comes_from_the_dropout_stream(short):
    calm, variables = short
    model = CrossFormer(**SHORT, drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.5)
    images = jnp.asarray(seeded.images(4, 3, (32, 32)))
    logits = jax.jit(calm.apply)(variables, images)
    run = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    first, again, other = (run(jax.random.key(seed, impl="rbg")) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, images), logits)


@pytest.mark.slow
def test_bfloat16_stays_near_float32(short):
    model, variables = short
    images = jnp.asarray(seeded.images(2, 3, (64, 64)))
    exact = np.asarray(jax.jit(model.apply)(variables, images))
    low = jax.jit(CrossFormer(**SHORT, dtype=jnp.bfloat16).apply)(variables, images)
    assert seeded.deviation(np.asarray(low, np.float32), exact) < 0.05


def test_without_classes_the_pooled_vector_comes_out(short):
    _, variables = short
    model = CrossFormer(**{**SHORT, "num_classes": 0})
    images = jnp.asarray(seeded.images(1, 3, (32, 32)))
    pooled = jax.jit(lambda v, x: model.apply(v, x, method="features").pooled[0])(variables, images)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), pooled, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((1, 31, 64, 3), np.float32), r"images of 31x64 is smaller .* give 32x32 or more"),
        (np.zeros((1, 64, 64, 1), np.float32), "1 channels, the model was built with in_channels=3"),
        (np.zeros((1, 3, 64, 64), np.float32), "NHWC"),
        (np.zeros((64, 64, 3), np.float32), r"must be \(batch, height, width, channels\)"),
        (np.zeros((1, 64, 64, 3), np.uint8), "uint8"),
    ],
)
def test_images_that_do_not_fit_are_refused(narrow, images, reason):
    model, variables = narrow
    with pytest.raises(RequestError, match=reason):
        model.apply(variables, images)
