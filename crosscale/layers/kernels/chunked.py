"""softmax(q k^T) v in groups of images and chunks of queries, with a gradient of its own.

The scores of a whole batch do not fit a processor's caches. A part's scores are exponentiated, multiplied with the
values and only then divided by their sums (the order of Dao et al., FlashAttention, NeurIPS 2022, algorithm 1, with
whole rows of keys, so that no sum has to be corrected). Exact up to rounding.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from crosscale.contracts import Array
from crosscale.layers.kernels.manual import varying_alike

# As measured: with more the caches overflow, and with fewer than 64 rows the products become too small to be fast.
CHUNK_BYTES = 16 * 2**20
SMALLEST_CHUNK = 64
# Each group is compiled by itself.
MOST_GROUPS = 8


def image_groups(batch: Any, heads: int, queries: Any, keys: Any) -> list[int]:
    """Where to cut a batch, so that a group's scores in float32 stay within CHUNK_BYTES; [0, batch] leaves it whole.

    Whole, too, where a size is symbolic (`jax.export` with a free batch or image size), and where several devices may
    hold a part of the batch each.
    """
    sizes = (batch, queries, keys)
    if not all(isinstance(size, int) for size in sizes) or jax.device_count() > 1:
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
        outputs.append(_attention(*varying_alike(*part), chunk))
    return _joined(outputs, axis=0).swapaxes(1, 2)


def whole_attention(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """`chunked_attention` in one piece."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return _attention(*varying_alike(q, k, v, bias), None).swapaxes(1, 2)


def _split(x: Array | None, cuts: list[int]) -> list[Array | None]:
    groups = len(cuts) - 1
    if groups == 1 or x is None or x.shape[0] == 1:  # broadcast over the images
        return [x] * groups
    return list(jnp.split(x, cuts[1:-1]))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q: Array, k: Array, v: Array, bias: Array | None, chunk: int | None) -> Array:
    """On (B, H, N, D)."""
    return _joined([_softmax(*part, k, v)[0] for part in _parts(q, bias, chunk)])


def keeps_weights(queries: int, keys: int, width: int) -> bool:
    """Whether the gradient finds a head's weights kept, and need not compute them again.

    Where rows are short that saves up to a fifth of its time. Where the weights are much larger than the head's
    queries, keys and values together, it is not worth their memory.
    """
    return queries * keys <= 2 * (queries + 2 * keys) * width


def _forward(q: Array, k: Array, v: Array, bias: Array | None, chunk: int | None) -> tuple[Array, Any]:
    outputs, normalizers, weights = [], [], []
    keep = keeps_weights(q.shape[2], k.shape[2], q.shape[3])
    for part in _parts(q, bias, chunk):
        output, exponentials, highest, total = _softmax(*part, k, v)
        outputs.append(output)
        normalizers.append(total if keep else highest + jnp.log(total))
        weights.append(exponentials)
    output = _joined(outputs)
    return output, (q, k, v, bias, output, normalizers, weights if keep else None)


def _softmax(q: Array, bias: Array | None, k: Array, v: Array) -> tuple[Array, Array, Array, Array]:
    """For some queries: the output, exp(score - highest), each row's highest score, and its sum of the exponentials."""
    scores = _product(q, k.swapaxes(-1, -2))
    scores = scores if bias is None else scores + bias
    highest = scores.max(-1, keepdims=True)
    exponentials = jnp.exp(scores - highest)
    total = exponentials.sum(-1, keepdims=True)
    weights = exponentials.astype(v.dtype)
    return (_product(weights, v) / total).astype(v.dtype), weights, highest, total


def _backward(chunk: int | None, kept: Any, grad: Array) -> tuple[Array, Array, Array, Array | None]:
    q, k, v, bias, output, normalizers, weights = kept
    grads = []
    for i, ((start, stop), part) in enumerate(zip(_ranges(q.shape[2], chunk), _parts(q, bias, chunk), strict=True)):
        # The softmax's gradient needs each row's sum of weight * d weight: output . grad (ibid., appendix B.2).
        rows = grad[:, :, start:stop]
        inner = (rows.astype(jnp.float32) * output[:, :, start:stop].astype(jnp.float32)).sum(-1, keepdims=True)
        if weights is None:
            grads.append(_gradient_again(*part, k, v, rows, inner, normalizers[i]))
        else:
            grads.append(_gradient_kept(*part, k, v, rows, inner, normalizers[i], weights[i]))
    to_q, to_k, to_v, to_bias = zip(*grads, strict=True)
    if bias is not None:
        bias_grad = (_added(to_bias) if bias.shape[2] == 1 else _joined(to_bias)).astype(bias.dtype)
    return (
        _joined(to_q).astype(q.dtype),
        _added(to_k).astype(k.dtype),
        _added(to_v).astype(v.dtype),
        None if bias is None else bias_grad,
    )


def _gradient_kept(
    q: Array, bias: Array | None, k: Array, v: Array, grad: Array, inner: Array, total: Array, weights: Array
) -> tuple[Array, Array, Array, Array | None]:
    """To q, k, v and the bias, from weights that lack the division by `total`."""
    grad, inner = (grad / total).astype(grad.dtype), inner / total
    change = weights * (_product(grad, v.swapaxes(-1, -2)) - inner)
    to_bias = None if bias is None else _summed_like(change, bias)
    to_v = _product(weights.swapaxes(-1, -2), grad)
    change = change.astype(q.dtype)
    return _product(change, k), _product(change.swapaxes(-1, -2), q), to_v, to_bias


def _gradient_again(
    q: Array, bias: Array | None, k: Array, v: Array, grad: Array, inner: Array, normalizer: Array
) -> tuple[Array, Array, Array, Array | None]:
    """To q, k, v and the bias, from weights that are computed again: keys by queries, as most products want them."""
    # The zero ties them to the output's gradient. XLA would compute them in the forward, and keep them until now.
    late = q + (0.0 * inner).astype(q.dtype)
    scores = _product(k, late.swapaxes(-1, -2))
    scores = scores if bias is None else scores + bias.swapaxes(-1, -2)
    weights = jnp.exp(scores - normalizer.swapaxes(-1, -2))
    change = weights * (_product(v, grad.swapaxes(-1, -2)) - inner.swapaxes(-1, -2))
    to_bias = None if bias is None else _summed_like(change.swapaxes(-1, -2), bias)
    to_v = _product(weights.astype(v.dtype), grad)
    change = change.astype(q.dtype)
    return _product(change.swapaxes(-1, -2), k), _product(change, q), to_v, to_bias


_attention.defvjp(_forward, _backward)


def _ranges(queries: Any, chunk: int | None) -> list[tuple[Any, Any]]:
    if chunk is None:
        return [(None, None)]
    return [(start, min(start + chunk, queries)) for start in range(0, queries, chunk)]


def _parts(q: Array, bias: Array | None, chunk: int | None) -> list[tuple[Array, Array | None]]:
    """Queries and their bias, of each range."""
    ranges = _ranges(q.shape[2], chunk)
    if bias is None or bias.shape[2] == 1:
        return [(q[:, :, start:stop], bias) for start, stop in ranges]
    return [(q[:, :, start:stop], bias[:, :, start:stop]) for start, stop in ranges]


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _joined(parts: Sequence[Array], axis: int = 2) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _added(parts: Sequence[Array]) -> Array:
    return reduce(jnp.add, parts)


def _summed_like(x: Array, like: Array) -> Array:
    """`x` summed over the axes along which `like` was broadcast; queries are taken as they come, in chunks."""
    if like.shape[0] == 1:
        # XLA:CPU strides through memory when it sums over the first axis. The product takes a fraction of the time.
        x = jnp.tensordot(jnp.ones(x.shape[0], x.dtype), x, axes=1, precision="highest")[None]
    axes = tuple(axis for axis in (1, 2) if like.shape[axis] == 1)
    return x.sum(axes, keepdims=True) if axes else x
