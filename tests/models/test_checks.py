"""Values that no family can take are refused at construction in a line; NumPy's numbers and arrays are numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import crosscale
from crosscale.compat import vit_pytorch
from crosscale.errors import RequestError
from crosscale.layers.attention import ClassAttention, SelfAttention
from crosscale.layers.groups import GroupAttention

TWO_BRANCHES = {"img_size": (48, 32), "patch_size": (12, 16), "embed_dim": (8, 16), "depth": ((1, 1, 1),),
                "num_heads": (2, 2), "num_classes": 5}  # fmt: skip
STAGES = {"img_size": 64, "patch_size": (4, 8), "embed_dim": 16, "depths": (1, 1), "num_heads": 1, "group_size": 4,
          "interval": 2, "merge_size": ((2, 4),), "num_classes": 5}  # fmt: skip
FORMER_4 = {**STAGES, "depths": (1, 1, 1, 1), "merge_size": ((2, 4),) * 3}


def vit(**options):
    return crosscale.CrossViT(**{**TWO_BRANCHES, **options})


def former(**options):
    return crosscale.CrossFormer(**{**STAGES, **options})


@pytest.mark.parametrize("build", [vit, former], ids=["crossvit", "crossformer"])
@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mlp_ratio": -1}, "mlp_ratio=-1.0 must be above 0 and finite"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio=nan must be above 0 and finite"),
        ({"mlp_ratio": 0.01}, r"mlp_ratio=0.01 leaves the perceptron on (8|16) channels no hidden unit; give 0"),
        ({"dtype": "bf16"}, "dtype='bf16' is no floating-point type: 'float32', 'bfloat16' and 'float16' are, or None"),
        ({"dtype": jnp.int32}, "dtype=<class 'jax.numpy.int32'> is no floating-point type"),
        ({"qk_scale": "x"}, "qk_scale='x' is not a number"),
        ({"qk_scale": 0.0}, "qk_scale=0.0 must be above 0 and finite; None is"),
        ({"qkv_bias": "no"}, "qkv_bias='no' is neither True nor False"),
        ({"remat": "x"}, "remat='x' is neither True nor False"),
        ({"drop_rate": float("nan")}, "drop_rate=nan is not in 0 <= rate < 1"),
        ({"img_size": True}, "img_size"),
    ],
)
def test_refused_in_a_line(build, options, line):
    with pytest.raises(RequestError, match=line) as error:
        build(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"embed_dim": 0}, r"embed_dim=\[0, 0\]: every entry must be 1 or more"),
        ({"embed_dim": -8}, r"embed_dim=\[-8, -8\]: every entry must be 1 or more"),
        ({"patch_size": (0, 16)}, r"patch_size=\[0, 16\]: every entry must be 1 or more"),
        ({"depth": ((True, 1, 1),)}, "depth: stage"),
        ({"cls_token": "no"}, "cls_token='no' is neither True nor False"),
        ({"norm_layer": "LayerNorm"}, "norm_layer='LayerNorm' builds nothing: give what builds .* the class"),
        (
            {"norm_layer": nn.LayerNorm()},
            r"norm_layer=LayerNorm\(\.\.\.\) builds nothing: give what builds .* the class",
        ),
        ({"norm_layer": lambda x: x}, "norm_layer=.*missing a required argument: 'x'; give what"),
    ],
)
def test_crossvit_refuses_in_a_line(options, line):
    with pytest.raises(RequestError, match=line) as error:
        vit(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "options", "line"),
    [
        ("upernet_crossformer", {"pool_scales": (1, 0)}, r"pool_scales=\[1, 0\]"),
        ("upernet_crossformer", {"aux_channels": -1}, "aux_channels=-1 must be 0 or more"),
        ("semantic_fpn_crossformer", {"head_channels": 0}, "head_channels=0 must be 1 or more"),
        ("semantic_fpn_crossformer", {"neck_channels": "x"}, "neck_channels='x' is not a whole number"),
        ("semantic_fpn_crossformer", {"head_drop_rate": float("nan")}, "head_drop_rate=nan is not in"),
        ("semantic_fpn_crossformer", {"num_classes": 0}, "num_classes=0: a segmentation has"),
        ("retinanet_crossformer", {"num_classes": 0}, "num_classes=0: a detector has"),
        ("mask_rcnn_crossformer", {"fc_channels": 0}, "fc_channels=0 must be 1 or more"),
    ],
)
def test_dense_heads_refuse_in_a_line(family, options, line):
    with pytest.raises(RequestError, match=line):
        crosscale.create_model(family, **{**FORMER_4, **options})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"cross_embed_kernel_sizes": 4}, "cross_embed_kernel_sizes=4; expected 4 tuples"),
        ({"cross_embed_kernel_sizes": (4, 2, 2, 2)}, "expected 4 tuples"),
        ({"cross_embed_kernel_sizes": (("a",),) * 4}, "cross_embed_kernel_sizes='a'; expected a whole number"),
        ({"dim": None}, "dim=None; expected a whole number of at least 32"),
        ({"ff_dropout": "x"}, "ff_dropout='x' is not a dropout rate"),
        ({"dtype": "bf16"}, "dtype='bf16' is no floating-point type"),
    ],
)
def test_vit_pytorch_refuses_in_a_line(options, line):
    with pytest.raises(RequestError, match=line):
        vit_pytorch.CrossFormer(**options)


def test_numbers_and_arrays_of_numpy_and_jax_are_numbers():
    given = {
        "img_size": np.array([48, 32]), "patch_size": jnp.array([12, 16]), "embed_dim": [np.int64(8), 16],
        "depth": np.ones((1, 3), int), "num_heads": np.int32(2), "num_classes": np.int64(5),
        "qkv_bias": np.bool_(False), "drop_rate": np.float32(0.5),
    }  # fmt: skip
    assert vit(**given).config == vit(drop_rate=0.5).config
    assert vit(img_size=np.int64(48)).config == vit(img_size=48).config
    assert type(vit(**given).num_classes) is int
    assert former(img_size=np.array([64, 96]), embed_dim=np.int64(16)).config == former(img_size=(64, 96)).config
    assert vit_pytorch.CrossFormer(dim=np.array([32, 64, 64, 64])).dim == (32, 64, 64, 64)
    sizes = crosscale.create_model("crossvit_9_240", img_size=np.int64(480)).img_size
    assert sizes == ((480, 480), (448, 448))


def test_what_works_is_taken():
    for dtype in (None, "bfloat16", "float16", jnp.float32, np.dtype("float32"), np.float16):
        assert vit(dtype=dtype).dtype == dtype
    vit(norm_layer=partial(nn.LayerNorm, epsilon=1e-5), qk_scale=0.1, remat=True, mlp_ratio=0.125)


@pytest.mark.parametrize("layer", [SelfAttention(2), ClassAttention(2), GroupAttention(2, 4)], ids=lambda x: type(x))
def test_a_scale_of_zero_is_used(layer):
    """All weights are alike then, whatever the queries; None alone is the default."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 32)), jnp.float32)
    x = x if isinstance(layer, GroupAttention) else x.reshape(1, 16, 32)
    variables = layer.clone().init(jax.random.key(0), x)
    _, found = layer.clone(qk_scale=0.0).apply(variables, x, mutable=["attention"])
    weights = jax.tree.leaves(found)[0]
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    if not isinstance(layer, GroupAttention):  # it adds a bias
        np.testing.assert_allclose(weights, 1 / 16, rtol=1e-5)
