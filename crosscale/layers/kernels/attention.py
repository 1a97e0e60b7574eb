"""softmax(q k^T + bias) v in the form that suits the platform."""

from typing import Any

import jax
import jax.numpy as jnp

from crosscale.contracts import Array
from crosscale.layers.kernels.choice import asked, by_platform
from crosscale.layers.kernels.chunked import chunked_attention, whole_attention

# Added to the scores of padded keys: large enough that their weight is exactly zero beside any real key,
# finite so that a row of nothing but padding stays free of NaN.
MASKED = -1e6
TILE = 8  # tokens; what half precision's matrix units take at once


def attention(
    q: Array, k: Array, v: Array, bias: Array | None = None, *, scale: float = 1.0, keys: int | None = None
) -> Array:
    """softmax(scale * q k^T + bias) v.

    Args:
      q: queries (B, Nq, H, D).
      k: keys (B, Nk, H, D).
      v: values (B, Nk, H, D).
      bias: (B or 1, H or 1, Nq or 1, Nk), or None.
      scale: factor on the products.
      keys: how many there are, at the front of `k` and `v`; what follows is padding. None where all are keys.

    Returns:
      (B, Nq, H, D). Scores and softmax are float32 whatever the inputs' type.
    """
    form = asked().attention

    def choose(platform: str) -> str:
        return form or attention_form(platform, q, k, bias)

    def run(form: str, q: Array, k: Array, v: Array, bias: Array | None) -> Array:
        if form == "cudnn" and keys is not None and bias is None:
            return _cudnn_lengths(q, k, v, scale, q.shape[1], keys)
        if keys is not None:
            mask = jnp.where(jnp.arange(k.shape[1]) < keys, 0.0, MASKED)[None, None, None]
            bias = mask if bias is None else bias + mask
        if form in CUDNN:
            return CUDNN[form](q, k, v, bias, scale)
        return FORMS[form](q if scale == 1.0 else q * jnp.asarray(scale, q.dtype), k, v, bias)

    return by_platform(choose, run, q, k, v, bias)


def attention_form(platform: str, q: Array, k: Array, bias: Array | None) -> str:
    """A processor's caches want parts; a GPU has cuDNN's fused kernel, for what it takes; plain everywhere else."""
    if asked().gradients == "derived":
        return "plain"
    if platform == "cpu":
        return "chunked"
    if not fused_kernel_fits(q, k, bias, platform):
        return "plain"
    # JAX refuses cuDNN's gradient of an odd number of tokens, as CLS tokens make it.
    return "cudnn" if q.shape[1] % 2 == k.shape[1] % 2 == 0 else "cudnn_padded"


def fused_kernel_fits(q: Array, k: Array, bias: Array | None, platform: str) -> bool:
    """Whether cuDNN's fused attention takes these: half precision on a GPU, heads of 8, 16, ... 128, no bias."""
    width, half = q.shape[-1], q.dtype in (jnp.bfloat16, jnp.float16)
    allowed = platform == "gpu" and asked().vendor != "none"
    return allowed and half and bias is None and width % 8 == 0 and width <= 128


def carried_tokens(tokens: Any) -> Any:
    """How many tokens a row of blocks should work on, with its attention told that only the first are keys.

    Filled up once for all blocks ("carried"), the padding costs one pass, and queries, keys and values none: 4 % of
    crossvit_9's training step on an H200. It stays off unless asked for: what cuDNN writes into the gradients of the
    padding has not been looked at on a card (`benchmarks/accelerator.sh`, part `forms`, column `padding`).

    Args:
      tokens: that there are.
    """
    carried = asked().tokens == "carried" and isinstance(tokens, int) and tokens % 2
    return tokens + -tokens % TILE if carried else tokens


def attention_weights(q: Array, k: Array, bias: Array | None) -> Array:
    """softmax(q k^T + bias), (B, H, Nq, Nk) float32; arguments as `attention` takes them."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores if bias is None else scores + bias, axis=-1)


def _plain(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    return jnp.einsum("bhqk,bkhd->bqhd", attention_weights(q, k, bias).astype(v.dtype), v)


def _cudnn(q: Array, k: Array, v: Array, bias: Array | None, scale: float) -> Array:
    bias = None if bias is None else bias.astype(q.dtype)
    return jax.nn.dot_product_attention(q, k, v, bias, scale=scale, implementation="cudnn")


def _cudnn_lengths(q: Array, k: Array, v: Array, scale: float, queries: int, keys: int) -> Array:
    """cuDNN's with only the first queries and keys of each image."""
    query_lengths, key_lengths = (jnp.full(q.shape[:1], count, jnp.int32) for count in (queries, keys))
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        query_seq_lengths=query_lengths,
        key_value_seq_lengths=key_lengths,
        implementation="cudnn",
    )


def _tiled(x: Array, axis: int, value: float = 0.0) -> Array:
    """`x` with `value` behind its end, up to the next multiple of TILE."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % TILE)
    return jnp.pad(x, widths, constant_values=value)


def _tiled_bias(bias: Array | None, keys: int) -> Array | None:
    """Masks the keys that `_tiled` adds; None where there are none and there was no bias."""
    if bias is None:
        bias = jnp.zeros((1, 1, 1, keys), jnp.float32) if keys % TILE else None
    elif bias.shape[2] > 1:
        bias = _tiled(bias, 2)
    return None if bias is None else _tiled(bias, 3, MASKED)


def _padded(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    return _plain(_tiled(q, 1), _tiled(k, 1), _tiled(v, 1), _tiled_bias(bias, k.shape[1]))[:, : q.shape[1]]


def _cudnn_padded(q: Array, k: Array, v: Array, bias: Array | None, scale: float) -> Array:
    """The lengths tell cuDNN where the padding begins; with a bias, which excludes lengths, the bias masks it."""
    queries, keys = q.shape[1], k.shape[1]
    tiled_q, tiled_k, tiled_v = _tiled(q, 1), _tiled(k, 1), _tiled(v, 1)
    if bias is not None:
        full = jnp.broadcast_to(bias, (*bias.shape[:2], queries, keys))
        return _cudnn(tiled_q, tiled_k, tiled_v, _tiled_bias(full, keys), scale)[:, :queries]
    return _cudnn_lengths(tiled_q, tiled_k, tiled_v, scale, queries, keys)[:, :queries]


FORMS = {
    "chunked": chunked_attention,  # groups of images, chunks of queries, a gradient of its own
    "whole": whole_attention,  # the same in one piece
    "plain": _plain,  # the formula, and the gradient that JAX derives
    "padded": _padded,  # plain, with the tokens filled up to a multiple of TILE
}
CUDNN = {"cudnn": _cudnn, "cudnn_padded": _cudnn_padded}  # scale the scores themselves
