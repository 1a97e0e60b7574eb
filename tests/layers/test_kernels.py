"""The forms of each kernel agree, and each platform gets the form that it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.layers.kernels import (
    attention,
    dense,
    dense_parts,
    gelu,
    layer_norm,
    squared_norms,
    strided_conv,
    use_kernels,
)
from crosscale.layers.kernels.attention import attention_form, carried_tokens
from crosscale.layers.kernels.products import conv_form
from crosscale.layers.resize import resize_bicubic
from crosscale.models.registry import create_model
from tests.seeded import seeded_variables

CROSSVIT = {
    "img_size": 32,
    "patch_size": (8, 16),
    "embed_dim": (16, 32),
    "depth": ((1, 1, 1),),
    "num_heads": (2, 2),
    "mlp_ratio": 2.0,
}


def draws(*shapes, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)]


def value_and_gradient(function, given, cotangent):
    value, pull = jax.vjp(lambda *given: function(*given), *given)
    return [value, *pull(cotangent)]


def close(ours, theirs, share=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, atol=share * float(np.abs(b).max()))


@pytest.mark.parametrize("form", ["chunked", "whole", "padded"])
@pytest.mark.parametrize("tokens", [40, 49])
@pytest.mark.parametrize("bias", [None, (1, 2, -1, -1), (3, 1, 1, -1)], ids=str)
def test_forms_of_attention_agree(form, tokens, bias):
    q, k, v, cotangent = draws(*[(3, tokens, 2, 16)] * 4)
    given = [q / 4, k, v]
    if bias is not None:
        given += draws(tuple(tokens if side == -1 else side for side in bias))
    with use_kernels(attention="plain"):
        expected = value_and_gradient(attention, given, cotangent)
    with use_kernels(attention=form):
        close(value_and_gradient(attention, given, cotangent), expected)


@pytest.mark.slow
def test_forms_of_gelu_and_layer_norm_agree():
    x, scale, shift, cotangent = draws((3, 7, 32), (32,), (32,), (3, 7, 32))

    def both():
        norm = value_and_gradient(lambda *given: layer_norm(*given, 1e-6, jnp.float32), (x, scale, shift), cotangent)
        return norm + value_and_gradient(gelu, (x,), cotangent)

    with use_kernels(gelu="derived", layer_norm="derived"):
        expected = both()
    with use_kernels(gelu="written", layer_norm="written"):
        close(both(), expected)


def test_forms_of_parts_of_a_product_agree():
    x, kernel, bias, *cotangents = draws((3, 7, 16), (16, 12), (12,), *[(3, 7, 4)] * 3)
    joint = {}
    for form in ("joint", "split"):
        with use_kernels(parts=form):
            values, pull = jax.vjp(lambda *given: dense_parts(*given, 3), x, kernel, bias)
            joint[form] = [*values, *pull(tuple(cotangents))]
    close(joint["split"], joint["joint"])
    assert [value.shape for value in joint["joint"][:3]] == [(3, 7, 4)] * 3


@pytest.mark.parametrize("size", [(24, 31), (56, 20), (30, 45)], ids=str)
def test_forms_of_resampling_agree(size):
    (x,) = draws((2, 30, 45, 3))
    with use_kernels(resample="products"):
        expected = resize_bicubic(x, size)
    with use_kernels(resample="taps"):
        close([resize_bicubic(x, size)], [expected], 2e-6)


def test_forms_of_squared_norms_agree():
    arrays = draws((3, 4), (5,), (3, 4), (), (5,), (4, 3))
    with use_kernels(squares="each"):
        expected = squared_norms(arrays)
    with use_kernels(squares="stacked"):
        close([squared_norms(arrays)], [expected], 1e-6)
        arrays[2] = arrays[2].at[0, 0].set(jnp.nan)
        assert np.isfinite(squared_norms(arrays)).tolist() == [True, True, False, True, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["chunked", "plain"])
def test_padding_behind_the_keys_changes_nothing(form):
    q, k, v, cotangent = draws(*[(3, 13, 2, 16)] * 4)

    def padded(*given):
        return attention(*(jnp.pad(x, ((0, 0), (0, 3), (0, 0), (0, 0)), constant_values=9.0) for x in given), keys=13)

    with use_kernels(attention=form):
        expected = value_and_gradient(attention, (q, k, v), cotangent)
        close(value_and_gradient(lambda *given: padded(*given)[:, :13], (q, k, v), cotangent), expected)


@pytest.mark.slow
def test_carried_tokens_change_nothing():
    """A whole model of two branches, with 17 and 5 tokens, and its gradients."""
    model = create_model("crossvit", num_classes=3, **CROSSVIT)
    variables, images = seeded_variables(model), draws((2, 32, 32, 3))[0]

    def loss(variables):
        return (model.apply(variables, images) ** 2).sum()

    own = jax.jit(jax.value_and_grad(lambda variables: loss(variables))).lower(variables)
    with use_kernels(tokens="carried"):
        carried = jax.jit(jax.value_and_grad(lambda variables: loss(variables))).lower(variables)
    assert ["tensor<2x24x16xf32>" in lowered.as_text() for lowered in (own, carried)] == [False, True]
    expected, found = own.compile()(variables), carried.compile()(variables)
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 2e-5)


def text_for(platforms, function, *shapes, dtype=jnp.bfloat16):
    """The program of a gradient, exported."""
    given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    with use_kernels(platforms=platforms):
        gradient = jax.jit(jax.grad(lambda *given: function(*given).astype(jnp.float32).sum()))
        return jax.export.export(gradient, platforms=platforms)(*given).mlir_module()


def test_a_tpu_s_program_is_free_of_what_a_processor_s_caches_want():
    shape = (256, 401, 4, 32)
    assert text_for(("cpu",), attention, *[shape] * 3).count("stablehlo.exponential") > 8
    assert text_for(("tpu",), attention, *[shape] * 3).count("stablehlo.exponential") == 1

    def embedding(x, kernel):
        return strided_conv(x, kernel, 4, 14)

    shapes = (2, 64, 64, 3), (32, 32, 3, 4)
    assert text_for(("cpu",), embedding, *shapes).count("stablehlo.convolution") == 0
    assert text_for(("tpu",), embedding, *shapes).count("stablehlo.convolution") > 0


def test_a_program_for_several_platforms_holds_what_suits_each():
    def embedding(x, kernel):
        return strided_conv(x, kernel, 4, 14)

    text = text_for(("cpu", "cuda", "tpu"), embedding, (2, 64, 64, 3), (32, 32, 3, 4))
    assert "stablehlo.case" in text
    assert "stablehlo.convolution" in text
    assert "stablehlo.dot_general" in text


def test_a_program_for_several_platforms_computes_the_same_here():
    q, k, v = draws(*[(2, 50, 2, 16)] * 3)

    def both(q, k, v):
        return gelu(attention(q, k, v))

    expected = jax.jit(lambda *given: both(*given))(q, k, v)
    with use_kernels(platforms=("cpu", "cuda", "tpu")):
        exported = jax.export.export(jax.jit(lambda *given: both(*given)), platforms=("cpu", "cuda", "tpu"))(q, k, v)
    np.testing.assert_array_equal(exported.call(q, k, v), expected)


def test_each_platform_gets_its_form():
    half, wide = jnp.ones((2, 401, 4, 32), jnp.bfloat16), jnp.ones((2, 401, 4, 32))
    forms = [attention_form(platform, x, x, None) for platform in ("cpu", "gpu", "tpu") for x in (half, wide)]
    assert forms == ["chunked", "chunked", "cudnn_padded", "plain", "plain", "plain"]
    assert attention_form("gpu", half[:, :400], half[:, :400], None) == "cudnn"
    assert conv_form("gpu", (32, 32), 12, 12, 0, 1) == "products"  # whole patches
    with use_kernels(platforms=("cuda",), vendor="none"):
        assert attention_form("gpu", half, half, None) == "plain"
    assert carried_tokens(401) == 401  # only where it is asked for
    with use_kernels(tokens="carried"):
        assert (carried_tokens(401), carried_tokens(400)) == (408, 400)
    assert [conv_form(platform, (32, 32), 8, 4, 2, 1) for platform in ("cpu", "gpu", "tpu")] == [
        "products",
        "convolution",
        "convolution",
    ]


@pytest.mark.parametrize("tokens", [401, 400])
def test_a_gpu_s_training_traces_cudnn_s_attention(monkeypatch, tokens):
    """As far as that goes without a GPU: with what JAX asks of the machine answered."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda *_: False)
    q = jax.ShapeDtypeStruct((2, tokens, 4, 32), jnp.bfloat16)
    with use_kernels(platforms=("cuda",)):
        gradient = jax.make_jaxpr(jax.grad(lambda *given: attention(*given).astype(jnp.float32).sum(), (0, 1, 2)))
        program = gradient(q, q, q)
    assert "dot_product_attention_bwd" in str(program)
    assert [leaf.shape for leaf in program.out_avals] == [q.shape] * 3


def test_what_is_asked_for_ends_with_the_block():
    x, kernel = jnp.ones((2, 4), jnp.bfloat16), jnp.ones((4, 3), jnp.bfloat16)

    def program():
        return str(jax.make_jaxpr(lambda x, kernel: dense(x, kernel, None))(x, kernel))

    before = program()
    with use_kernels(dense="own"):
        assert "f32" in before
        assert "f32" not in program()
    assert program() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"attention": "flash"}, "kernels.attention='flash': one of chunked, "), ({"norm": None}, "kernels.norm: there")],
)
def test_unknown_forms_are_refused(changes, message):
    with pytest.raises(RequestError, match=message), use_kernels(**changes):
        pass
