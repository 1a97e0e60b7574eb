"""The attention layers against their written-out formulas, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from crosscale.layers.attention import ClassAttention, SelfAttention, attend
from crosscale.layers.dense import Dense
from crosscale.layers.kernels import chunked, gelu
from crosscale.layers.kernels.attention import fused_kernel_fits
from crosscale.layers.norm import LayerNorm
from tests.variants import joint_variants


def split(x, heads):
    return x.reshape(*x.shape[:-1], heads, -1)


def plain_self_attention(params, x, heads):
    qkv = x @ params["qkv"]["kernel"] + params["qkv"].get("bias", 0.0)
    q, k, v = (split(t, heads) for t in jnp.split(qkv, 3, -1))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]), -1)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
    return y @ params["out"]["kernel"] + params["out"]["bias"]


def plain_class_attention(params, x, heads):
    def project(name, t):
        return split(t @ params[name]["kernel"] + params[name].get("bias", 0.0), heads)

    q, k, v = project("q", x[:, :1]), project("k", x), project("v", x)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]), -1)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape[0], 1, -1)
    return y @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("layer", "plain"), [(SelfAttention, plain_self_attention), (ClassAttention, plain_class_attention)]
)
def test_equals_the_formula(layer, plain, bias):
    module = layer(num_heads=4, qkv_bias=bias)
    x = jax.random.normal(jax.random.key(0), (3, 37, 32))
    params = module.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)

    ours, pull = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, x)
    theirs, pull_plain = jax.vjp(lambda p, x: plain(p, x, 4), params, x)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    cotangent = jax.random.normal(jax.random.key(3), ours.shape)
    for a, b in zip(jax.tree.leaves(pull(cotangent)), jax.tree.leaves(pull_plain(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-2))


def test_half_precision_is_rounded_once_after_the_bias():
    x = jax.random.normal(jax.random.key(0), (3, 50, 700)).astype(jnp.bfloat16)
    layer = Dense(40, dtype=jnp.bfloat16)
    variables = jax.tree.map(lambda p: p + 0.3, layer.init(jax.random.key(1), x))
    halves = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), variables["params"])
    exact = x.astype(jnp.float32) @ halves["kernel"] + halves["bias"]
    given = layer.apply(variables, x)
    assert given.dtype == jnp.bfloat16
    # Another order of the sum changes a few. Rounding the product, too, would change many.
    assert (given == exact.astype(jnp.bfloat16)).mean() > 0.99


def test_gelu_in_half_precision_is_rounded_once():
    x = jnp.linspace(-9, 9, 3001).astype(jnp.bfloat16)
    wide = x.astype(jnp.float32)
    np.testing.assert_array_equal(gelu(x), gelu(wide).astype(jnp.bfloat16))
    assert (gelu(x)[wide < -3] < 0).any()  # 1 + erf would be nothing there in half precision


def test_gelu_is_exact():
    from math import erf

    x = np.linspace(-15, 15, 301, dtype=np.float32)
    expected = [v * 0.5 * (1 + erf(v / 2**0.5)) for v in x.astype(np.float64)]
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_gelu_s_gradient_is_the_written_out_one_s(dtype):
    def plain(x):
        return x * (0.5 * (1.0 + jax.lax.erf(x / 2**0.5)))

    x = jnp.linspace(-8, 8, 201).astype(dtype)
    cotangent = jnp.cos(jnp.arange(201.0)).astype(dtype)
    (ours,), (theirs,) = (
        jax.vjp(gelu, x)[1](cotangent),
        jax.vjp(plain, x.astype(jnp.float32))[1](cotangent.astype(jnp.float32)),
    )
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours.astype(np.float32), theirs, atol=1e-6 if dtype == jnp.float32 else 2e-2)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_layer_norm_and_its_gradient_are_linen_s_with_the_two_pass_variance(dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 30 + jax.random.normal(keys[0], (3, 7, 32))
    given = {"scale": 1 + jax.random.normal(keys[1], (32,)), "bias": jax.random.normal(keys[2], (32,))}
    ours, theirs = LayerNorm(dtype=dtype), nn.LayerNorm(use_fast_variance=False, dtype=dtype)
    assert jax.tree.map(jnp.shape, ours.init(keys[0], x)) == jax.tree.map(jnp.shape, theirs.init(keys[0], x))
    out, pull = jax.vjp(lambda params, x: ours.apply({"params": params}, x), given, x)
    expected, pull_linen = jax.vjp(lambda params, x: theirs.apply({"params": params}, x), given, x)
    assert out.dtype == expected.dtype
    cotangent = jax.random.normal(keys[3], x.shape).astype(out.dtype)
    for a, b in zip(
        jax.tree.leaves((out, pull(cotangent))), jax.tree.leaves((expected, pull_linen(cotangent))), strict=True
    ):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=1e-5, atol=1e-5)


def test_layer_norm_s_gradient_keeps_nothing_of_the_input_s_size_but_the_input():
    x = jnp.ones((5, 7, 32), jnp.bfloat16)
    variables = LayerNorm().init(jax.random.key(0), x)
    pull = jax.vjp(lambda x: LayerNorm().apply(variables, x), x)[1]
    assert [leaf.dtype for leaf in jax.tree.leaves(pull) if leaf.shape == x.shape] == [x.dtype]


def plain_attention(q, k, v, bias, scale):
    scores = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores if bias is None else scores + bias, -1), v)


@pytest.mark.slow
# In how many queries and groups, and how wide a head: 8 has the gradient compute the weights again, 32 keep them.
@pytest.mark.parametrize(
    ("rows", "groups", "width"),
    joint_variants(
        [(None, 1, 8), (64, 1, 8), (70, 1, 32), (None, 2, 32), (64, 3, 8), (64, 3, 32)], [(70, 1, 32), (64, 3, 8)]
    ),
)
@pytest.mark.parametrize("bias", [None, (1, 1, 1, 130), (1, 2, 130, 130), (3, 1, 1, 130), (3, 2, 130, 130)], ids=str)
def test_chunked_attention_equals_the_plain_product_and_its_gradient(monkeypatch, rows, groups, bias, width):
    shape = (3, 130, 2, width)
    assert chunked.keeps_weights(130, 130, width) == (width == 32)
    monkeypatch.setattr(chunked, "MOST_GROUPS", groups)
    monkeypatch.setattr(chunked, "SMALLEST_CHUNK", rows or 130)
    if (rows, groups) != (None, 1):
        monkeypatch.setattr(chunked, "CHUNK_BYTES", 1)
    assert chunked.query_chunk(3, 2, 130, 130) == rows
    assert len(chunked.image_groups(3, 2, 130, 130)) == groups + 1
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v, cotangent = (jax.random.normal(key, shape) for key in keys[:4])
    given = (q, k, v) if bias is None else (q, k, v, jax.random.normal(keys[4], bias))

    def ours(q, k, v, bias=None):
        return attend(q, k, v, scale=0.3, bias=bias)

    def theirs(q, k, v, bias=None):
        return plain_attention(q, k, v, bias, 0.3)

    out, pull = jax.vjp(ours, *given)
    expected, pull_plain = jax.vjp(theirs, *given)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for a, b in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-5 * float(np.abs(b).max()))


@pytest.mark.slow
@pytest.mark.parametrize("width", [16, 64], ids=["again", "kept"])
def test_half_precision_s_gradient_is_as_near_as_its_rounding(width):
    q, k, v, cotangent = (
        jax.random.normal(jax.random.key(i), (2, 130, 2, width)).astype(jnp.bfloat16) for i in range(4)
    )
    assert chunked.keeps_weights(130, 130, width) == (width == 64)
    pull = jax.vjp(lambda *given: attend(*given, scale=0.1), q, k, v)[1]
    wide = [x.astype(jnp.float32) for x in (q, k, v, cotangent)]
    expected = jax.vjp(lambda *given: plain_attention(*given, None, 0.1), *wide[:3])[1](wide[3])
    for a, b in zip(pull(cotangent), expected, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.linalg.norm(a.astype(jnp.float32) - b) <= 2**-6 * np.linalg.norm(b)


def test_long_rows_weights_do_not_wait_for_the_gradient():
    """XLA would compute them early, in the forward, where nothing says that they are needed late."""
    shape, layers = jax.ShapeDtypeStruct((2, 512, 2, 8), jnp.float32), 6

    def loss(q, k, v):
        for _ in range(layers):
            q = attend(q, k, v, scale=0.3)
        return q.sum()

    step = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
    scores = 4 * 2 * 2 * 512 * 512
    assert step.memory_analysis().temp_size_in_bytes < 4 * scores < layers * scores


def test_chunks_keep_large_scores_small_and_leave_small_ones_whole():
    assert chunked.query_chunk(1, 4, 401, 401) is None
    rows = chunked.query_chunk(32, 4, 401, 401)
    assert 4 * 32 * 4 * rows * 401 <= chunked.CHUNK_BYTES
    assert chunked.query_chunk(4096, 4, 49, 49) is None  # groups: a row of products for each would be slower


def test_groups_of_images_fill_the_budget_and_stay_few(monkeypatch):
    assert chunked.image_groups(3, 4, 401, 401) == [0, 3]
    assert chunked.image_groups(16, 4, 401, 401) == [0, 5, 10, 16]
    assert len(chunked.image_groups(1024, 4, 401, 401)) == chunked.MOST_GROUPS + 1
    assert chunked.image_groups(1, 40, 4010, 4010) == [0, 1]  # left to chunks of queries
    monkeypatch.setattr(jax, "device_count", lambda: 8)  # which may hold two images each
    assert chunked.image_groups(16, 4, 401, 401) == [0, 16]


def test_scores_far_apart_or_large_stay_finite():
    q, k = jnp.full((1, 3, 1, 4), 40.0), jnp.stack([jnp.full((1, 1, 4), x) for x in (40.0, -40.0)], axis=1)
    v = jnp.asarray([1.0, 2.0])[None, :, None, None] * jnp.ones((1, 2, 1, 4))
    out, pull = jax.vjp(lambda *given: attend(*given, scale=1.0), q, k, v)
    np.testing.assert_array_equal(out, np.ones_like(out))
    assert all(np.isfinite(gradient).all() for gradient in pull(out))


def test_half_precision_keeps_its_type_and_sums_in_float32():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 300, 2, 16)) for i in range(3))
    halves = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    out = attend(*halves, scale=0.25)
    assert out.dtype == jnp.bfloat16
    expected = plain_attention(*(x.astype(jnp.float32) for x in halves), None, 0.25)
    # the weights and the result are rounded to 8 bits, nothing is summed in them
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=2**-7 * float(np.abs(expected).max()))


def test_the_fused_kernel_is_asked_for_what_it_takes_and_computes_the_same():
    half = jnp.ones((2, 401, 4, 32), jnp.bfloat16)
    assert fused_kernel_fits(half, half, None, "gpu")
    assert not fused_kernel_fits(half, half, None, "cpu")
    assert not fused_kernel_fits(half, half, jnp.zeros((1, 4, 401, 401)), "gpu")
    assert not fused_kernel_fits(half.astype(jnp.float32), half, None, "gpu")
    assert not fused_kernel_fits(half[..., :20], half, None, "gpu")
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 50, 2, 16)) for i in range(3))
    theirs = jax.nn.dot_product_attention(0.3 * q, k, v, scale=1.0, implementation="xla")
    np.testing.assert_allclose(attend(q, k, v, scale=0.3), theirs, atol=1e-5)
