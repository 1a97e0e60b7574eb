"""softmax(q k^T) v without ever holding all of its scores: groups of images, chunks of queries, an own gradient.

The scores of a whole batch do not fit a processor's caches. A part's scores are exponentiated, multiplied with the
values and only then divided by their sums (the order of Dao et al., FlashAttention, NeurIPS 2022, algorithm 1, with
whole rows of keys, so that no sum has to be corrected). Exact up to rounding.
"""

import math
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from crosscale.contracts import Array

# As measured: with more the caches overflow, and with fewer than 64 rows the products become too small to be fast.
CHUNK_BYTES = 16 * 2**20
SMALLEST_CHUNK = 64
# Each group is compiled by itself.
MOST_GROUPS = 8


def image_groups(batch: Any, heads: int, queries: Any, keys: Any) -> list[int]:
    """Where to cut a batch, so that a group's scores in float32 stay within CHUNK_BYTES; [0, batch] leaves it whole.

    Whole, too, where a size is symbolic (`jax.export` with a free batch or image size), on an accelerator, whose
    memory is fast and wants large products, and where several devices may hold a part of the batch each.
    """
    sizes = (batch, queries, keys)
    if not all(isinstance(size, int) for size in sizes) or jax.default_backend() != "cpu" or jax.device_count() > 1:
        return [0, batch]
    groups = min(math.ceil(4 * batch * heads * queries * keys / CHUNK_BYTES), MOST_GROUPS, batch)
    return [batch * i // groups for i in range(groups + 1)]


def query_chunk(batch: Any, heads: int, queries: Any, keys: Any) -> int | None:
    """Queries to take at once, so that their scores in float32 stay within CHUNK_BYTES; None for all of them.

    All of them, too, where a size is symbolic.
    """
    if not all(isinstance(size, int) for size in (batch, queries, keys)):
        return None
    parts = math.ceil(4 * batch * heads * queries * keys / CHUNK_BYTES)
    chunk = max(SMALLEST_CHUNK, math.ceil(queries / parts))
    return chunk if chunk < queries else None


def chunked_attention(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """softmax(q k^T + bias) v.

    Args:
      q: scaled queries (B, Nq, H, D).
      k: keys (B, Nk, H, D).
      v: values (B, Nk, H, D).
      bias: (B or 1, H or 1, Nq or 1, Nk), or None.

    Returns:
      (B, Nq, H, D). Scores, softmax and sums are float32 whatever the inputs' type.
    """
    cuts = image_groups(q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    # One matrix per image and head: XLA's batched products are two to three times faster in this layout.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    parts = [_split(x, cuts) for x in (q, k, v, bias)]
    outputs = []
    for (start, stop), *part in zip(pairwise(cuts), *parts, strict=True):
        chunk = query_chunk(stop - start, q.shape[1], q.shape[2], k.shape[2])
        outputs.append(_attention(*part, chunk))
    return _joined(outputs, axis=0).swapaxes(1, 2)


def _split(x: Array | None, cuts: list[int]) -> list[Array | None]:
    groups = len(cuts) - 1
    if groups == 1 or x is None or x.shape[0] == 1:  # broadcast over the images
        return [x] * groups
    return list(jnp.split(x, cuts[1:-1]))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q: Array, k: Array, v: Array, bias: Array | None, chunk: int | None) -> Array:
    """On (B, H, N, D)."""
    return _forward(q, k, v, bias, chunk)[0]


def _forward(q: Array, k: Array, v: Array, bias: Array | None, chunk: int | None) -> tuple[Array, Any]:
    outputs, normalizers = [], []
    for start, stop in _ranges(q.shape[2], chunk):
        scores = _scores(q[:, :, start:stop], k, _rows(bias, start, stop))
        highest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        product = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        outputs.append((product / total).astype(v.dtype))
        normalizers.append(highest + jnp.log(total))
    output, normalizer = _joined(outputs), _joined(normalizers)
    return output, (q, k, v, bias, output, normalizer)


def _backward(chunk: int | None, kept: Any, grad: Array) -> tuple[Array, Array, Array, Array | None]:
    q, k, v, bias, output, normalizer = kept
    # The softmax's gradient needs each row's sum of weight * d weight, which is output . grad (ibid., appendix B.2).
    inner = (grad.astype(jnp.float32) * output.astype(jnp.float32)).sum(-1, keepdims=True)
    grad_q, grad_k, grad_v, grad_bias = [], [], [], []
    for start, stop in _ranges(q.shape[2], chunk):
        rows, out = q[:, :, start:stop], grad[:, :, start:stop]
        weights = jnp.exp(_scores(rows, k, _rows(bias, start, stop)) - normalizer[:, :, start:stop])
        grad_v.append(_product(weights.swapaxes(-1, -2).astype(v.dtype), out))
        change = weights * (_product(out, v.swapaxes(-1, -2)) - inner[:, :, start:stop])
        if bias is not None:
            grad_bias.append(_summed_like(change, bias))
        change = change.astype(q.dtype)
        grad_q.append(_product(change, k))
        grad_k.append(_product(change.swapaxes(-1, -2), rows))
    to_bias = None
    if bias is not None:
        to_bias = (_added(grad_bias) if bias.shape[2] == 1 else _joined(grad_bias)).astype(bias.dtype)
    return (
        _joined(grad_q).astype(q.dtype),
        _added(grad_k).astype(k.dtype),
        _added(grad_v).astype(v.dtype),
        to_bias,
    )


_attention.defvjp(_forward, _backward)


def _ranges(queries: Any, chunk: int | None) -> list[tuple[Any, Any]]:
    if chunk is None:
        return [(None, None)]
    return [(start, min(start + chunk, queries)) for start in range(0, queries, chunk)]


def _rows(bias: Array | None, start: Any, stop: Any) -> Array | None:
    return bias if bias is None or bias.shape[2] == 1 else bias[:, :, start:stop]


def _scores(q: Array, k: Array, bias: Array | None) -> Array:
    scores = _product(q, k.swapaxes(-1, -2))
    return scores if bias is None else scores + bias


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _joined(parts: list[Array], axis: int = 2) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _added(parts: list[Array]) -> Array:
    return reduce(jnp.add, parts)


def _summed_like(x: Array, like: Array) -> Array:
    """`x` summed over the axes along which `like` was broadcast; queries are taken as they come, in chunks."""
    if like.shape[0] == 1:
        # XLA:CPU strides through memory when it sums over the first axis. The product takes a fraction of the time.
        x = jnp.tensordot(jnp.ones(x.shape[0], x.dtype), x, axes=1, precision="highest")[None]
    axes = tuple(axis for axis in (1, 2) if like.shape[axis] == 1)
    return x.sum(axes, keepdims=True) if axes else x
