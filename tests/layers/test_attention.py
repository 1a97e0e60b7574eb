"""The attention layers against their written-out formulas, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers.attention import ClassAttention, SelfAttention
from crosscale.layers.mlp import gelu


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


def test_gelu_is_exact():
    from math import erf

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = [v * 0.5 * (1 + erf(v / 2**0.5)) for v in x.astype(np.float64)]
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, atol=1e-6)
