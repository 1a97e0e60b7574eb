"""The compat models without torch: against goldens, their options, and what they refuse."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import crosscale
from crosscale.compat.crossformer_modules import bias_coordinates, offset_entries
from crosscale.compat.vit_pytorch import CrossFormer, CrossViT
from crosscale.errors import RequestError
from crosscale.pretrained import from_variables, parameter_shapes, to_variables
from tests.variants import variants

GOLDENS = Path(__file__).parent.parent / "golden" / "vit_pytorch"
NAMES = ("cross_vit", "cross_vit_one_width", "cross_vit_smaller_image", "crossformer")
NARROW_VIT = {
    "image_size": 8, "num_classes": 3, "depth": 1, "sm_dim": 8, "sm_patch_size": 2, "sm_enc_heads": 2,
    "sm_enc_mlp_dim": 8, "sm_enc_dim_head": 4, "lg_dim": 12, "lg_patch_size": 4, "lg_enc_depth": 1,
    "lg_enc_heads": 2, "lg_enc_mlp_dim": 8, "lg_enc_dim_head": 4,
    "cross_attn_depth": 1, "cross_attn_heads": 2, "cross_attn_dim_head": 4,
}  # fmt: skip
NARROW_FORMER = {
    "dim": 32, "depth": (1, 0, 0, 0), "local_window_size": (2, 1, 1, 1), "global_window_size": (4, 1, 1, 1),
    "cross_embed_kernel_sizes": ((4, 8), (2,), (2,), (2,)), "num_classes": 3,
}  # fmt: skip


def golden(name):
    arrays = np.load(GOLDENS / f"{name}.npz")
    build = CrossFormer if name.startswith("crossformer") else CrossViT
    model = build(**json.loads(str(arrays["fields"])))
    weights = {k.removeprefix("weights/"): arrays[k].astype(np.float32) for k in arrays.files if "weights/" in k}
    return model, weights, arrays


def deviation(got, expected):
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", variants(NAMES, ("cross_vit", "crossformer")))
def test_logits_equal_the_packages(name):
    model, weights, arrays = golden(name)
    variables = to_variables(weights, model, "vit_pytorch", name)
    logits = jax.jit(model.apply)(variables, arrays["images"])
    assert deviation(logits, arrays["logits"]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_names_round_trip_bit_exact(name):
    model, weights, _ = golden(name)
    back = from_variables(to_variables(weights, model, None, name), model, "vit_pytorch")
    assert set(back) == set(weights)
    for key, value in weights.items():
        assert back[key].shape == value.shape
        assert back[key].tobytes() == value.tobytes(), key


@pytest.mark.slow
def test_gradients_equal_the_packages():
    model, weights, arrays = golden("cross_vit_one_width")
    variables = to_variables(weights, model, "vit_pytorch", "golden")

    def loss(variables):
        logits = model.apply(variables, arrays["images"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits))).mean()

    gradients = from_variables(jax.jit(jax.grad(loss))(variables), model, "vit_pytorch")
    for key, value in gradients.items():
        assert deviation(value, arrays[f"gradients/{key}"]) < 1e-3, key


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*.npz")), ids=lambda p: p.stem)
def test_goldens_stay_small(path):
    assert path.stem in NAMES
    assert path.stat().st_size < 300_000


@pytest.mark.slow
def test_weights_through_a_file(tmp_path):
    model, weights, _ = golden("crossformer")
    variables = to_variables(weights, model, None, "golden")
    crosscale.save_weights(tmp_path / "theirs.safetensors", variables, model, names="vit_pytorch")
    again = crosscale.load_weights(tmp_path / "theirs.safetensors", model)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, again))


@pytest.mark.slow
def test_saved_index_buffers_are_left_out_and_unknown_names_are_not():
    model, weights, _ = golden("crossformer")
    buffers = {"layers.0.1.layers.0.0.rel_pos_indices": np.zeros((4, 4), np.int64)}
    to_variables({**weights, **buffers}, model, "vit_pytorch", "golden")
    with pytest.raises(RequestError, match=r"layers\.0\.1\.layers\.0\.0\.extra"):
        to_variables({**weights, "layers.0.1.layers.0.0.extra": np.zeros(1)}, model, "vit_pytorch", "golden")
    weights.pop("to_logits.1.bias")
    with pytest.raises(RequestError, match=r"missing head/branch_0/bias"):
        to_variables(weights, model, "vit_pytorch", "golden")


def cross_vit_of_the_documentation():
    return CrossViT(
        image_size=256, num_classes=1000, depth=4,
        sm_dim=192, sm_patch_size=16, sm_enc_depth=2, sm_enc_heads=8, sm_enc_mlp_dim=2048,
        lg_dim=384, lg_patch_size=64, lg_enc_depth=3, lg_enc_heads=8, lg_enc_mlp_dim=2048,
        cross_attn_depth=2, cross_attn_heads=8, dropout=0.1, emb_dropout=0.1,
    )  # fmt: skip


def crossformer_of_the_documentation():
    return CrossFormer(
        num_classes=1000, dim=(64, 128, 256, 512), depth=(2, 2, 8, 2), global_window_size=(8, 4, 2, 1),
        local_window_size=7,
    )  # fmt: skip


def count(model):
    return sum(int(np.prod(shape)) for shape in parameter_shapes(model).values())


def traced(model, rngs):
    """The shape of the logits and the number of parameters, from one trace; the slow test computes them."""
    images = jnp.zeros((1, *model.input_size, 3))
    logits, variables = jax.eval_shape(lambda: model.init_with_output(rngs, images))
    return logits.shape, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.slow
def test_cross_vit_of_the_documentation():
    k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
    v = cross_vit_of_the_documentation()
    assert v.input_size == (256, 256)
    found = traced(v, {"params": k1, "dropout": k2, "emb_dropout": k3})
    assert found == ((1, 1000), 55_180_176)  # as the package's


@pytest.mark.slow
def test_crossformer_of_the_documentation():
    v = crossformer_of_the_documentation()
    assert v.input_size == (224, 224)
    assert traced(v, jax.random.key(0)) == ((1, 1000), 28_780_740)  # as the package's
    assert count(CrossFormer()) == 28_780_740


@pytest.mark.slow
@pytest.mark.parametrize("which", ["cross_vit", "crossformer"])
def test_documentation_computed(which):
    k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
    v = cross_vit_of_the_documentation() if which == "cross_vit" else crossformer_of_the_documentation()
    img = jax.random.normal(k1, (1, *v.input_size, 3))
    params = v.init({"params": k1, "dropout": k2, "emb_dropout": k3}, img)
    output = v.apply(params, img, rngs={"params": k1, "dropout": k2, "emb_dropout": k3})
    assert output.shape == (1, 1000)
    assert np.isfinite(output).all()


@functools.cache
def initial(build):
    """Images and first variables of the narrow model; no dropout rate changes them."""
    model = build(**(NARROW_VIT if build is CrossViT else NARROW_FORMER))
    images = jax.random.normal(jax.random.key(1), (2, *model.input_size, 3))
    return jax.jit(model.init)(jax.random.key(0), images), images


def narrow_vit(**fields):
    return CrossViT(**NARROW_VIT, **fields), *initial(CrossViT)


def narrow_former(**fields):
    return CrossFormer(**NARROW_FORMER, **fields), *initial(CrossFormer)


def applied(model):
    return jax.jit(model.apply, static_argnames="train")


@pytest.mark.slow
def test_dropout_acts_only_in_training():
    model, variables, images = narrow_vit(dropout=0.5, emb_dropout=0.5)
    apply = applied(model)
    keys = [{"dropout": jax.random.key(i), "emb_dropout": jax.random.key(i)} for i in range(2)]
    plain = apply(variables, images, rngs=keys[0])
    assert np.array_equal(plain, apply(variables, images, rngs=keys[1]))
    trained = [apply(variables, images, train=True, rngs=rngs) for rngs in keys]
    assert not np.allclose(plain, trained[0])
    assert not np.allclose(trained[0], trained[1])
    assert np.array_equal(trained[0], apply(variables, images, train=True, rngs=keys[0]))


@pytest.mark.slow
def test_embedding_dropout_has_its_own_stream_where_given():
    model, variables, images = narrow_vit(dropout=0.0, emb_dropout=0.5)
    apply = applied(model)

    def logits(**seeds):
        return apply(variables, images, train=True, rngs={k: jax.random.key(s) for k, s in seeds.items()})

    assert np.array_equal(logits(dropout=0, emb_dropout=2), logits(dropout=1, emb_dropout=2))
    assert not np.allclose(logits(dropout=0, emb_dropout=2), logits(dropout=0, emb_dropout=3))
    assert not np.allclose(logits(dropout=0), logits(dropout=1))


@pytest.mark.slow
@pytest.mark.parametrize("field", ["attn_dropout", "ff_dropout"])
def test_crossformer_dropout_acts_only_in_training(field):
    model, variables, images = narrow_former(**{field: 0.5})
    apply = applied(model)
    keys = [{"dropout": jax.random.key(i)} for i in (2, 3)]
    plain = apply(variables, images, rngs=keys[0])
    assert np.array_equal(plain, apply(variables, images, rngs=keys[1]))
    trained = [apply(variables, images, train=True, rngs=rngs) for rngs in keys]
    assert not np.allclose(plain, trained[0])
    assert not np.allclose(trained[0], trained[1])


def test_features():
    model, variables, images = narrow_vit()
    features = jax.eval_shape(lambda v: model.apply(v, images, method="features"), variables)
    assert [t.shape for t in features.pooled] == [(2, 8), (2, 12)]
    assert [t.shape for t in features.maps] == [(2, 4, 4, 8), (2, 2, 2, 12)]
    model = CrossFormer(**NARROW_FORMER)
    shapes = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, method="features")[0],
        jnp.zeros((1, 32, 64, 3)),
    )
    assert shapes.pooled[0].shape == (1, 32)
    assert [t.shape for t in shapes.maps] == [(1, 8, 16, 32), (1, 4, 8, 32), (1, 2, 4, 32), (1, 1, 2, 32)]


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_corrected_index_asks_for_the_true_offset(window):
    entries, coordinates = offset_entries(window), bias_coordinates(window, "corrected")
    for i in range(window * window):
        for j in range(window * window):
            offset = (i // window - j // window, i % window - j % window)
            assert tuple(coordinates[entries[i, j]]) == offset


def test_packages_index_asks_for_another_offset():
    # its table has rows (-7, -7), (-7, -6), ... of 15; the zero offset reads entry 6 * 13 + 6 = 84
    coordinates = bias_coordinates(7, "vit_pytorch")
    assert tuple(coordinates[offset_entries(7)[0, 0]]) == (-2, 2)
    assert not (coordinates == bias_coordinates(7, "corrected")).all(axis=1).any()


@pytest.mark.slow
def test_position_index_changes_the_logits_and_no_parameter():
    theirs, variables, images = narrow_former()
    corrected, _, _ = narrow_former(position_index="corrected")
    assert parameter_shapes(theirs) == parameter_shapes(corrected)
    logits = [jax.jit(model.apply)(variables, images) for model in (theirs, corrected)]
    assert not np.allclose(*logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 250, "sm_patch_size": 16}, "image_size=250 .* 240 or 256 would work"),
        ({"image_size": 4, "sm_patch_size": 8}, "image_size=4 .*; 16 would work"),
        ({"depth": -1}, "depth=-1; expected a whole number of at least 0"),
        ({"sm_dim": 0}, "sm_dim=0; expected a whole number of at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 is not a dropout rate"),
    ],
)
def test_cross_vit_refuses(fields, message):
    with pytest.raises(RequestError, match=message) as error:
        CrossViT(**{"image_size": 240, "num_classes": 2, "sm_dim": 8, "lg_dim": 8, **fields})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 6, 8, 3), "6 x 8 pixels do not divide into patches of 4"),
        ((1, 16, 8, 3), "give 32 patches of 2, the position table has 16"),
        ((1, 3, 8, 8), "channels"),
        ((8, 8, 3), "batch"),
    ],
)
def test_cross_vit_refuses_images(shape, message):
    with pytest.raises(RequestError, match=message):
        jax.eval_shape(CrossViT(**NARROW_VIT).init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 16}, "dim=16; expected a whole number of at least 32"),
        ({"depth": (1, 2)}, r"depth=\(1, 2\); expected one number or 4"),
        ({"position_index": "paper"}, "position_index='paper'; expected 'vit_pytorch' or 'corrected'"),
        ({"cross_embed_kernel_sizes": ((4, 7), (2,), (2,), (2,))}, "all even or all odd"),
        ({"cross_embed_kernel_sizes": ((4, 8),)}, "expected 4 tuples"),
        ({"ff_dropout": -0.1}, "ff_dropout=-0.1 is not a dropout rate"),
    ],
)
def test_crossformer_refuses(fields, message):
    with pytest.raises(RequestError, match=message):
        CrossFormer(**fields)


def test_crossformer_names_the_sizes_that_work():
    with pytest.raises(RequestError, match=r"256 x 320 .* 64 x 80 .* 7 and 8; .* work: 224, 448") as error:
        jax.eval_shape(CrossFormer().init, jax.random.key(0), jnp.zeros((1, 256, 320, 3)))
    assert "\n" not in str(error.value)
    with pytest.raises(RequestError, match=r"8 x 8 pixels: .* work: 224"):
        jax.eval_shape(CrossFormer().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_lists_do_as_well_as_tuples():
    as_lists = CrossFormer(**{k: list(v) if isinstance(v, tuple) else v for k, v in NARROW_FORMER.items()})
    assert parameter_shapes(as_lists) == parameter_shapes(CrossFormer(**NARROW_FORMER))
