"""Multi-head attention: the plain product, self-attention, and the one-query form of CrossViT's fusion."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.errors import RequestError
from crosscale.layers.dense import Dense, DenseParams, DenseParts
from crosscale.layers.kernels import attention, attention_weights

ATTENTION = "attention"  # the collection of attention weights, filled when it is made mutable


def check_heads(dim: int, num_heads: int, where: str = "attention") -> None:
    """Raises RequestError unless `num_heads` divides `dim`."""
    if num_heads < 1 or dim % num_heads:
        raise RequestError(f"{where}: num_heads={num_heads} does not divide the width {dim}")


def recorder(module: nn.Module) -> Callable[[Array], None] | None:
    """Puts weights into the collection ATTENTION; None unless whoever applies the model made that mutable.

    None means that nobody needs the weights, so that they need not exist. Not during `init`, in which every
    collection is mutable.
    """
    if not module.is_mutable_collection(ATTENTION) or module.is_initializing():
        return None

    def record(weights: Array) -> None:
        module.sow(ATTENTION, "weights", weights)

    return record


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    bias: Array | None = None,
    dropout: nn.Module | None = None,
    record: Callable[[Array], None] | None = None,
    keys: int | None = None,
) -> Array:
    """softmax(scale * q k^T + bias) v.

    Args:
      q: queries (B, Nq, H, D).
      k: keys (B, Nk, H, D).
      v: values (B, Nk, H, D).
      scale: factor on the products, usually D ** -0.5.
      bias: added to the scores, (B or 1, H or 1, Nq or 1, Nk).
      dropout: applied to the weights when given.
      record: is given the weights (B, H, Nq, Nk), before dropout.
      keys: how many there are, where padding follows them; not together with `dropout` or `record`.

    Returns:
      (B, Nq, H, D). The softmax runs in float32 whatever the inputs' type.
    """
    if record is None and dropout is None:
        return attention(q, k, v, bias, scale=scale, keys=keys)
    weights = attention_weights(q * jnp.asarray(scale, q.dtype), k, bias).astype(v.dtype)
    if record is not None:
        record(weights)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values.

    Attributes:
      num_heads: must divide the width.
      qkv_bias: whether the fused projection has a bias.
      qk_scale: replaces (width / heads) ** -0.5 when given.
      attn_drop_rate: dropout on the attention weights.
      drop_rate: dropout on the output.
      dtype: compute type.
    """

    num_heads: int
    qkv_bias: bool = False
    qk_scale: float | None = None
    attn_drop_rate: float = 0.0
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, bias: Array | None = None, train: bool = False, keys: int | None = None) -> Array:
        """(B, N, C) -> (B, N, C); `bias` is added to the scores, broadcastable to (B, H, N, N).

        `keys` is how many tokens there are where padding follows them, which nothing but itself then attends to.
        """
        batch, tokens, dim = x.shape
        check_heads(dim, self.num_heads, "/".join(self.path))
        qkv = DenseParts(3 * dim, 3, self.qkv_bias, self.dtype, name="qkv")(x)
        q, k, v = (t.reshape(batch, tokens, self.num_heads, -1) for t in qkv)  # (B, N, H, D)
        scale = (dim // self.num_heads) ** -0.5 if self.qk_scale is None else self.qk_scale
        dropout = _dropout(self.attn_drop_rate, train)
        y = attend(q, k, v, scale=scale, bias=bias, dropout=dropout, record=recorder(self), keys=keys)
        y = Dense(dim, dtype=self.dtype, name="out")(y.reshape(batch, tokens, dim))
        return nn.Dropout(self.drop_rate)(y, deterministic=not train)


class ClassAttention(nn.Module):
    """Attention of the first token alone over all tokens (CrossViT eq. 5): linear in their number.

    One query needs no key or value projection of the tokens: q (x W_k)^T = (q W_k^T) x^T, the key's bias adds
    the same number to all scores of a head and cancels in the softmax, and W_v is applied after the weighted
    sum. Costs O(N C heads) instead of O(N C^2); equal to the written-out form up to rounding.
    """

    num_heads: int
    qkv_bias: bool = False
    qk_scale: float | None = None
    attn_drop_rate: float = 0.0
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(B, N, C) -> (B, 1, C)."""
        batch, _, dim = x.shape
        heads = self.num_heads
        check_heads(dim, heads, "/".join(self.path))
        scale = (dim // heads) ** -0.5 if self.qk_scale is None else self.qk_scale
        q = Dense(dim, self.qkv_bias, self.dtype, name="q")(x[:, 0]).reshape(batch, heads, -1)
        to_key, _ = DenseParams(dim, dim, self.qkv_bias, self.dtype, name="k")()
        to_value, value_bias = DenseParams(dim, dim, self.qkv_bias, self.dtype, name="v")()
        query = jnp.einsum("bhd,chd->bhc", q * jnp.asarray(scale, q.dtype), to_key.reshape(dim, heads, -1))
        scores = jnp.einsum("bhc,bnc->bhn", query, x, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        if (record := recorder(self)) is not None:
            record(weights)
        weights = nn.Dropout(self.attn_drop_rate)(weights, deterministic=not train)
        context = jnp.einsum("bhn,bnc->bhc", weights, x)
        y: Array = jnp.einsum("bhc,chd->bhd", context, to_value.reshape(dim, heads, -1))
        if value_bias is not None:  # the weights sum to one only where nothing was dropped
            y = y + weights.sum(-1, keepdims=True) * value_bias.reshape(heads, -1)
        y = Dense(dim, dtype=self.dtype, name="out")(y.reshape(batch, 1, dim))
        return nn.Dropout(self.drop_rate)(y, deterministic=not train)


def class_attention_saving(batch: int, tokens: int, dim: int, heads: int) -> int:
    """Multiply-accumulates that `ClassAttention` does without, against projecting all tokens to keys and values."""
    written_out = 2 * tokens * dim * dim + 2 * tokens * dim
    absorbed = 2 * dim * dim + 2 * tokens * dim * heads
    return batch * (written_out - absorbed)


def _dropout(rate: float, train: bool) -> nn.Module | None:
    return nn.Dropout(rate, deterministic=False) if train and rate > 0 else None
