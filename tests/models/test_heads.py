"""Heads from outside on every family, and what a backbone says to them: features and their strides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from crosscale.contracts import Features
from crosscale.errors import RequestError
from crosscale.layers.dense import Dense
from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.models.crossvit.backbone import CrossViT
from crosscale.models.heads.linear import MeanOfLinears
from crosscale.models.heads.regression import RegressionHead
from crosscale.models.registry import create_model, list_models
from crosscale.pretrained import load_weights, parameter_shapes, save_weights
from crosscale.pretrained.naming import fresh
from tests.seeded import seeded_variables

SMALL_VIT = {"img_size": (32, 32), "patch_size": (8, 16), "embed_dim": (8, 16), "depth": [[1, 1, 1]],
             "num_heads": (2, 2)}  # fmt: skip
SMALL_FORMER = {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "group_size": 2,
                "interval": 1}  # fmt: skip
AGES = RegressionHead(2, mean=(40.0, -3.0), std=(12.0, 0.5))
VECTORS = Features((jnp.ones((3, 4)), jnp.full((3, 6), 2.0)), ())


class Strided(nn.Module):
    """A head that needs the strides while it is traced, as dense tasks do."""

    @nn.compact
    def __call__(self, features, train=False):
        shapes = [m.repeat(s, 1).repeat(s, 2) for m, s in zip(features.maps, features.strides, strict=True)]
        finest = shapes[0][:, :, :, :1]
        return Dense(2, name="classify")(finest)


@pytest.mark.parametrize("name", [name for name in list_models() if not name.startswith("mask_rcnn")])
def test_every_preset_of_one_head_takes_another(name):
    model = create_model(name, task_head=AGES)
    assert model.task_head == AGES
    assert model == create_model(name, task_head=RegressionHead(2, (40.0, -3.0), (12.0, 0.5)))
    assert hash(model) == hash(model.clone())
    assert model != create_model(name)


def test_a_model_of_several_heads_takes_none():
    with pytest.raises(
        RequestError, match=r"^task_head: MaskRCNNCrossFormer, a model of the task instances, has several heads"
    ):
        create_model("mask_rcnn_crossformer", **SMALL_FORMER, num_classes=3, task_head=AGES)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "options"), [(CrossViT, SMALL_VIT), (CrossFormer, SMALL_FORMER)])
def test_the_parameters_stand_under_head(family, options):
    plain = parameter_shapes(family(**options, num_classes=2))
    assert parameter_shapes(family(**options, task_head=AGES)) == plain
    assert parameter_shapes(family(**options, task_head=MeanOfLinears(2))) == plain
    dense = parameter_shapes(family(**options, task_head=Strided()))
    assert [name for name in dense if not name.startswith("backbone/")] == [
        "head/classify/bias",
        "head/classify/kernel",
    ]


@pytest.mark.slow
def test_a_given_head_gives_what_the_own_one_gives():
    own, given = CrossViT(**SMALL_VIT, num_classes=5), CrossViT(**SMALL_VIT, task_head=MeanOfLinears(5))
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = seeded_variables(own)
    np.testing.assert_array_equal(jax.jit(own.apply)(variables, images), jax.jit(given.apply)(variables, images))


@pytest.mark.slow
def test_weights_of_a_classifier_start_a_regression(tmp_path):
    classifier, regression = CrossViT(**SMALL_VIT, num_classes=5), CrossViT(**SMALL_VIT, task_head=AGES)
    variables = seeded_variables(classifier)
    save_weights(tmp_path / "w.safetensors", variables, classifier)
    loaded = load_weights(tmp_path / "w.safetensors", regression, adapt=True)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, variables["params"]["backbone"], loaded["params"]["backbone"]))
    assert loaded["params"]["head"]["branch_1"]["kernel"].shape == (16, 2)


def test_regression_is_in_the_datas_units():
    variables = AGES.init(jax.random.key(0), VECTORS)
    start = AGES.apply(variables, VECTORS)
    # the kernels are drawn as those of the other heads: a few hundredths of a deviation around the mean
    np.testing.assert_allclose(start, np.tile(AGES.mean, (3, 1)), atol=0.2 * max(AGES.std))
    linear = MeanOfLinears(2).apply(variables, VECTORS)
    np.testing.assert_allclose(start, linear * np.array(AGES.std) + np.array(AGES.mean), rtol=1e-6)
    biases = {f"branch_{b}": {**variables["params"][f"branch_{b}"], "bias": jnp.ones(2)} for b in range(2)}
    shifted = AGES.apply({"params": biases}, VECTORS)
    np.testing.assert_allclose(shifted - start, np.tile(AGES.std, (3, 1)), rtol=1e-4)  # one in the layer, one deviation


def test_regression_scales_in_float32():
    head = RegressionHead(1, (1000.0,), (1.0,), jnp.bfloat16)
    out = head.apply(head.init(jax.random.key(0), VECTORS), VECTORS)
    assert out.dtype == jnp.float32
    assert out[0, 0] != jnp.bfloat16(out[0, 0])  # bfloat16 knows whole fours there


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"outputs": 0, "mean": (), "std": ()}, "outputs=0"),
        ({"outputs": 2, "mean": (1.0,), "std": (1.0, 1.0)}, r"mean=\[1.0\] has 1 entries for outputs=2"),
        ({"outputs": 1, "mean": (float("nan"),), "std": (1.0,)}, "mean=.*finite"),
        ({"outputs": 1, "mean": (0.0,), "std": (0.0,)}, r"std=\[0.0\]: every entry must be above 0"),
    ],
)
def test_statistics_that_cannot_be(options, told):
    with pytest.raises(RequestError, match=told):
        RegressionHead(**options)


def strides(model, height, width):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    key = jax.random.key(0)
    return jax.eval_shape(lambda k, x: model.init_with_output(k, x, method="features")[0], key, images)


@pytest.mark.parametrize(
    ("sizes", "rescale", "given", "expected"),
    [
        ((32, 32), "bicubic", (32, 32), (8, 16)),
        ((32, 64), "bicubic", (64, 64), (16, 16)),
        ((32, 48), "bicubic", (32, 32), (8, 16)),  # 16 * 32 / 48 is no whole number: in the branch's own pixels
        ((32, 32), "bicubic", (64, 32), (8, 16)),  # another scale down than across
        ((32, 32), "center_crop", (64, 64), (8, 16)),  # cut out, not scaled
    ],
)
def test_strides_of_crossvit(sizes, rescale, given, expected):
    found = strides(CrossViT(**{**SMALL_VIT, "img_size": sizes}, rescale=rescale), *given)
    assert found.strides == expected
    assert [m.shape[1:3] for m in found.maps] == [(s // p, s // p) for s, p in zip(sizes, (8, 16), strict=True)]


def test_strides_of_crossformer():
    found = strides(CrossFormer(**SMALL_FORMER), 96, 128)
    assert found.strides == (4, 8, 16, 32)
    assert [m.shape[1:3] for m in found.maps] == [(96 // s, 128 // s) for s in found.strides]


def test_strides_are_no_leaves():
    features = VECTORS._replace(maps=(jnp.ones((1, 2, 2, 3)),), strides=(4,))
    assert len(jax.tree.leaves(features)) == 3
    through = jax.jit(lambda x: x)(features)
    assert isinstance(through, Features)
    assert through.strides == (4,)
    assert Features((), ()).strides == ()
    with pytest.raises(ValueError, match="different pytree metadata"):
        jax.tree.map(jnp.add, features, features._replace(strides=(8,)))
    gradient = jax.grad(lambda x: sum(leaf.sum() for leaf in jax.tree.leaves(x)))(features)
    assert gradient.strides == (4,)


def test_a_fresh_head_may_ask_for_strides():
    """Making a head anew runs it without the backbone, on features of the right shapes."""
    model = CrossViT(**SMALL_VIT, task_head=Strided())
    assert fresh(model, ["head/classify/kernel"], 0)["head/classify/kernel"].shape == (1, 2)
