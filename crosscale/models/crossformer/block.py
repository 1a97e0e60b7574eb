"""CrossFormer's block: group attention and perceptron, both pre-norm, on maps (CrossFormer section 3)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.drop_path import DropPath
from crosscale.layers.groups import GroupAttention, GroupingKind
from crosscale.layers.initializers import torch_uniform
from crosscale.layers.mlp import Mlp
from crosscale.layers.norm import LayerNorm

NORM_EPSILON = 1e-5  # PyTorch's default, which the published weights were trained with; Linen's is 1e-6


class DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of each channel by itself, zero-padded by one cell: (B, H, W, C) -> (B, H, W, C).

    Written as nine shifted products, summed in float32: XLA fuses them into one pass over the map, where its
    grouped convolution on CPU takes some thirty times as long. PyTorch's default initialisation.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width, channels = x.shape[1:]
        init = torch_uniform(9)
        kernel = self.param("kernel", init, (3, 3, 1, channels), jnp.float32)
        bias = self.param("bias", init, (channels,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = bias.astype(jnp.float32)
        for row in range(3):
            for column in range(3):
                shifted = padded[:, row : row + height, column : column + width]
                y = y + shifted.astype(jnp.float32) * kernel[row, column, 0].astype(jnp.float32)
        return y.astype(x.dtype)


class AmplitudeCooling(nn.Module):
    """CrossFormer++'s amplitude cooling layer: depthwise 3 x 3 convolution, then LayerNorm; no residual."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = DepthwiseConv(self.dtype, name="conv")(x)
        return LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype, name="norm")(x)


class CrossFormerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), then the amplitude cooling layer where there is one.

    Attributes:
      num_heads: attention heads; must divide C.
      group_size: side of a group, in cells.
      interval: distance of a group's neighbouring cells; 1 for short-distance attention.
      grouping: how long-distance groups are cut, see `layers.groups.group_map`.
      long: whether the groups are long-distance ones.
      mlp_ratio: hidden width of the perceptron over C.
      drop_rate: dropout after the attention's and perceptron's projections.
      attn_drop_rate: dropout on the attention weights.
      drop_path_rate: stochastic depth of both residuals.
      cooling: whether an amplitude cooling layer ends the block.
    """

    num_heads: int
    group_size: int
    interval: int = 1
    grouping: GroupingKind = "regions"
    long: bool = False
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    cooling: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        attention = GroupAttention(
            num_heads=self.num_heads,
            group_size=self.group_size,
            interval=self.interval,
            grouping=self.grouping,
            long=self.long,
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            attn_drop_rate=self.attn_drop_rate,
            drop_rate=self.drop_rate,
            dtype=self.dtype,
            name="attention",
        )
        mlp = Mlp(int(x.shape[-1] * self.mlp_ratio), self.drop_rate, self.dtype, name="mlp")
        y = attention(LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype, name="norm1")(x), train)
        x = x + DropPath(self.drop_path_rate)(y, train)
        y = mlp(LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype, name="norm2")(x), train)
        x = x + DropPath(self.drop_path_rate)(y, train)
        return AmplitudeCooling(self.dtype, name="cooling")(x) if self.cooling else x
