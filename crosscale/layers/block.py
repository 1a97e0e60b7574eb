"""The pre-norm transformer block (Dosovitskiy et al., ICLR 2021, eqs. 2-3)."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.attention import SelfAttention
from crosscale.layers.drop_path import DropPath
from crosscale.layers.mlp import Mlp
from crosscale.layers.norm import LayerNorm


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on (B, N, C).

    Attributes:
      num_heads: attention heads; must divide C.
      mlp_ratio: hidden width of the perceptron over C.
      drop_rate: dropout after the attention's and perceptron's projections.
      attn_drop_rate: dropout on the attention weights.
      drop_path_rate: stochastic depth of both residuals.
      norm_layer: builds a normalisation; called with `dtype` and `name`.
      keys: how many of the N tokens attention sees, where padding follows them; None for all.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_layer: Callable[..., nn.Module] = LayerNorm
    dtype: Any = None
    keys: int | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        attention = SelfAttention(
            self.num_heads,
            self.qkv_bias,
            self.qk_scale,
            self.attn_drop_rate,
            self.drop_rate,
            self.dtype,
            name="attention",
        )
        mlp = Mlp(int(x.shape[-1] * self.mlp_ratio), self.drop_rate, self.dtype, name="mlp")
        y = attention(self.norm_layer(dtype=self.dtype, name="norm1")(x), train=train, keys=self.keys)
        x = x + DropPath(self.drop_path_rate)(y, train)
        y = mlp(self.norm_layer(dtype=self.dtype, name="norm2")(x), train)
        return x + DropPath(self.drop_path_rate)(y, train)
