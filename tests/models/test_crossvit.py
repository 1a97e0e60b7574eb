"""CrossViT: the constructor, any number of branches, sizes, randomness, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crosscale
from crosscale import CrossViT, RequestError
from crosscale.layers.drop_path import drop_path_schedule
from crosscale.models.crossvit.backbone import _stage_rates
from crosscale.pretrained import parameter_shapes
from tests.seeded import seeded_variables
from tests.variants import variants

SMALL = {
    "img_size": 32,
    "patch_size": (4, 8),
    "embed_dim": (8, 16),
    "depth": ((1, 1, 0),),
    "num_heads": (2, 2),
    "num_classes": 5,
}


def small(**fields):
    return CrossViT(**{**SMALL, **fields})


def run(model, size=(32, 32), batch=2):
    images = jax.random.normal(jax.random.key(1), (batch, *size, model.in_channels))
    variables = seeded_variables(model)
    return variables, images, jax.jit(model.apply)(variables, images)


def features(model, variables, images):
    return jax.jit(lambda v, x: model.apply(v, x, method="features"))(variables, images)


def trained(model, variables, images, seeds):
    """Logits in training mode, one per seed of the dropout stream."""
    apply = jax.jit(lambda v, x, key: model.apply(v, x, train=True, rngs={"dropout": key}))
    return [apply(variables, images, jax.random.key(seed)) for seed in seeds]


def test_defaults_as_documented():
    model = CrossViT()
    assert (model.img_size, model.patch_size) == (((224, 224), (224, 224)), (12, 16))
    assert (model.embed_dim, model.num_heads, model.depth) == ((192, 384), (6, 12), ((1, 3, 1),) * 3)
    shapes = parameter_shapes(model)
    assert shapes["backbone/embed_0/position"] == (1, 1 + (224 // 12) ** 2, 192)
    assert "backbone/stage_0/branch_0/block_0/attention/qkv/bias" not in shapes
    out = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))[0]
    assert out.shape == (1, 1000)


@pytest.mark.slow
def test_another_configuration_runs():
    model = CrossViT(
        img_size=[384, 384],
        patch_size=[16, 32],
        embed_dim=[256, 512],
        depth=[[1, 4, 1]] * 3,
        num_heads=[8, 16],
        num_classes=100,
    )
    logits = jax.jit(model.apply)(seeded_variables(model), jnp.zeros((1, 384, 384, 3)))
    assert logits.shape == (1, 100)
    assert np.isfinite(logits).all()


def test_initial_values():
    """Section 4.1 and the released code: truncated normal 0.02, biases 0, norms 1 and 0, torch's convolutions."""
    model = small(embed_dim=(64, 64), depth=((1, 1, 0),))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]["backbone"]
    block = params["stage_0"]["branch_0"]["block_0"]
    for kernel in (block["attention"]["qkv"]["kernel"], block["mlp"]["expand"]["kernel"]):
        assert abs(float(kernel.std()) - 0.02) < 0.002
    assert abs(float(params["embed_0"]["position"].std()) - 0.02) < 0.002
    assert not block["mlp"]["expand"]["bias"].any()
    assert (block["norm1"]["scale"] == 1).all()
    bound = (3 * 4 * 4) ** -0.5
    patches = np.abs(params["embed_0"]["patches"]["kernel"])
    assert 0.95 * bound < patches.max() <= bound


@pytest.mark.parametrize("branches", variants([2, 3, 4], [3]))
def test_any_number_of_branches(branches):
    patch = (2, 4, 8, 16)[:branches]
    model = small(
        patch_size=patch,
        embed_dim=(8, 12, 16, 20)[:branches],
        num_heads=2,
        mlp_ratio=2.0,
        depth=((1,) * branches + (1,),),
    )
    variables, images, logits = run(model)
    assert logits.shape == (2, 5)
    pooled_maps = features(model, variables, images)
    for pooled, spatial, p, dim in zip(pooled_maps.pooled, pooled_maps.maps, patch, model.embed_dim, strict=True):
        assert pooled.shape == (2, dim)
        assert spatial.shape == (2, 32 // p, 32 // p, dim)


@pytest.mark.slow
def test_ring_direction():
    """Branch b must read branch b + 1: its CLS token changes with that branch's patches and no other's."""
    model = small(patch_size=(2, 4, 8), embed_dim=(8, 8, 8), num_heads=2, depth=((1, 1, 1, 0),), num_classes=0)
    variables, images, _ = run(model)

    @jax.jit
    def gradients(params):
        def pooled(params, b):  # weighed unevenly: a plain sum over a normalised vector is constant
            vector = model.apply({"params": params}, images, method="features").pooled[b]
            return (vector * jnp.arange(vector.shape[-1])).sum()

        return [jax.grad(pooled)(params, b)["backbone"] for b in range(3)]

    grads = gradients(variables["params"])
    for b in range(3):
        seen = [float(jnp.abs(grads[b][f"embed_{o}"]["patches"]["kernel"]).max()) > 0 for o in range(3)]
        assert seen == [o in (b, (b + 1) % 3) for o in range(3)]


def test_one_branch_needs_no_fusion():
    model = small(patch_size=4, embed_dim=8, num_heads=2, mlp_ratio=2, depth=((2, 0),), fusion="none")
    assert run(model)[2].shape == (2, 5)
    with pytest.raises(RequestError, match="fusion needs two branches"):
        small(patch_size=4, embed_dim=8, num_heads=2, mlp_ratio=2, depth=((2, 0),))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_fusion_depth(depth):
    model = small(depth=((1, 1, depth),))
    names = {n.split("/")[3] for n in parameter_shapes(model) if "fusion_0/block" in n}
    assert names == {f"block_{i}" for i in range(max(depth, 1))}


@pytest.mark.slow
def test_sizes_per_branch_and_not_square():
    model = small(img_size=[[32, 48], [24, 40]])
    variables, images, logits = run(model, size=(32, 48))
    assert logits.shape == (2, 5)
    maps = features(model, variables, images).maps
    assert [m.shape[1:3] for m in maps] == [(8, 12), (3, 5)]
    assert model.input_size == (32, 48)
    rescaled = jax.jit(model.apply)(variables, jnp.zeros((1, 50, 30, 3)))
    assert rescaled.shape == (1, 5)


@pytest.mark.slow
def test_channels_and_headless():
    assert run(small(in_channels=1))[2].shape == (2, 5)
    assert run(small(num_classes=0))[2].shape == (2, 24)


@pytest.mark.slow
def test_dropout_only_in_training():
    model = small(drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.5, depth=((2, 2, 1),))
    variables, images, logits = run(model)
    np.testing.assert_array_equal(logits, jax.jit(model.apply)(variables, images))
    noisy = trained(model, variables, images, seeds=(0, 1, 1))
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-4
    np.testing.assert_array_equal(noisy[1], noisy[2])
    assert np.abs(noisy[0] - logits).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("field", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_each_dropout_acts(field):
    model = small(**{field: 0.9}, depth=((2, 2, 1),))
    variables, images, logits = run(model)
    noisy = trained(model, variables, images, seeds=(0,))[0]
    assert np.abs(noisy - logits).max() > 1e-5


def test_stochastic_depth_schedule():
    model = small(depth=((1, 3, 0), (2, 1, 1)), drop_path_rate=0.5)
    rates = _stage_rates(model.config)
    assert [len(r) for r in rates] == [3, 3]
    np.testing.assert_allclose(sum(rates, ()), np.linspace(0, 0.5, 6), atol=1e-12)
    assert drop_path_schedule(0.3, 1) == (0.0,)


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16():
    model = small(dtype=jnp.bfloat16)
    variables, images, logits = run(model)
    assert logits.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    exact = jax.jit(small().apply)(variables, images)
    assert np.abs(logits.astype(np.float32) - exact).max() < 0.05 * np.abs(exact).max() + 0.02


def test_image_size_of_a_preset_keeps_the_ratio():
    model = crosscale.create_model("crossvit_9_240", img_size=480)
    assert model.img_size == ((480, 480), (448, 448))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": (3, 2)}, "num_heads=3 does not divide the width 8"),
        ({"img_size": (32, 32, 32)}, "img_size"),
        ({"img_size": 3}, "smaller than one patch"),
        ({"depth": ((1, 1),)}, "depth: stage"),
        ({"depth": ((0, 1, 0),)}, "at least one block"),
        ({"depth": ()}, "depth is empty"),
        ({"mlp_ratio": (1.0,)}, "mlp_ratio"),
        ({"fusion": "cross_atention"}, "did you mean 'cross_attention'"),
        ({"rescale": "crop"}, "center_crop"),
        ({"multi_conv": True}, "patch_size 12 or 16, not 4"),
        ({"multi_conv": True, "patch_size": (12, 16), "img_size": (58, 48)}, "48x48 would work"),
        ({"drop_rate": 1.0}, "drop_rate=1.0"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"embed_dim": (8.5, 16)}, "8.5 is not int"),
    ],
)
def test_refusals_say_why(fields, message):
    with pytest.raises(RequestError, match=message) as error:
        small(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 32, 32), np.float32), "NHWC"),
        (np.zeros((32, 32, 3), np.float32), "batch, height, width, channels"),
        (np.zeros((2, 32, 32, 3), np.uint8), "normalised float"),
        (np.zeros((2, 32, 32, 4), np.float32), "in_channels=3"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(RequestError, match=message):
        small().init(jax.random.key(0), images)


def test_unknown_names():
    with pytest.raises(RequestError, match="did you mean 'crossvit_9_240'"):
        crosscale.create_model("crossvit_9_24")
    with pytest.raises(RequestError, match="no option 'num_clases'; did you mean 'num_classes'"):
        crosscale.create_model("crossvit_9_240", num_clases=3)


@pytest.mark.slow
def test_from_nnx():
    from flax import nnx

    images = jnp.ones((1, 32, 32, 3))
    module = nnx.bridge.ToNNX(small(), rngs=nnx.Rngs(0)).lazy_init(images)
    assert module(images).shape == (1, 5)
