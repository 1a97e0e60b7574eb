"""Attention within groups of a map's cells, neighbouring (short distance) or evenly spread (long distance).

CrossFormer (Wang et al., ICLR 2022), section 3.2. A group is G x G cells whose neighbours lie `interval`
apart, so a region of (G * interval)^2 cells holds interval^2 interleaved groups; interval 1 is short-distance
attention.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.attention import attend, check_heads, recorder
from crosscale.layers.dense import Dense
from crosscale.layers.kernels.attention import MASKED
from crosscale.layers.position_bias import DynamicPositionBias

GroupingKind = Literal["regions", "whole"]


@dataclass(frozen=True)
class Grouping:
    """How a map is cut into groups.

    Attributes:
      size: rows and columns of the map.
      group: rows and columns of one group.
      interval: distance of a group's neighbouring cells.
    """

    size: tuple[int, int]
    group: tuple[int, int]
    interval: int = 1

    @property
    def regions(self) -> tuple[int, int]:
        """Regions down and across, the last ones padded."""
        rows, columns = (-(-side // (g * self.interval)) for side, g in zip(self.size, self.group, strict=True))
        return rows, columns

    @property
    def padding(self) -> tuple[int, int]:
        """Rows added at the bottom and columns added at the right."""
        rows, columns = (
            r * g * self.interval - side for r, g, side in zip(self.regions, self.group, self.size, strict=True)
        )
        return rows, columns

    @property
    def tokens(self) -> int:
        """Cells of one group."""
        return self.group[0] * self.group[1]


def group_map(
    size: tuple[int, int], group_size: int, interval: int = 1, kind: GroupingKind = "regions", long: bool = True
) -> Grouping:
    """Cuts a map of `size` into groups.

    Args:
      size: rows and columns of the map.
      group_size: side G of a group.
      interval: distance of a group's neighbouring cells.
      kind:
        "regions": G x G cells at the interval, in regions of (G * interval)^2 cells; the whole map as one group where
          its shorter side is no larger than G. The released classification code takes the shorter side as the group's
          size there, its later detection and segmentation code the longer one, padded and masked. On the square maps
          that the former can run, and on all of the latter, one group over the whole map is the same attention,
          without the padding.
        "whole": a long-distance group spans the whole map, every `interval`-th row and column of it, whatever G is;
          short-distance groups have G x G cells. Where the shorter side is no larger than G both are groups of
          neighbours, of that side, so that a long map is cut into several. This is the code with which the published
          detection and segmentation weights were trained.
      long: whether these are long-distance groups, which an interval of 1 does not tell.
    """
    if (
        size[0] <= group_size or size[1] <= group_size
    ):  # one by one: which is the shorter is not known of symbolic sizes
        return Grouping(size, (min(size), min(size)) if kind == "whole" else size)
    if kind == "whole" and long:
        return Grouping(size, (-(-size[0] // interval), -(-size[1] // interval)), interval)
    return Grouping(size, (group_size, group_size), interval)


def partition(x: Array, grouping: Grouping) -> Array:
    """(B, H, W, C) -> (B * groups, tokens, C), padded with zeros; batch slowest, then as `merge` expects."""
    batch, channels = x.shape[0], x.shape[-1]
    (pad_rows, pad_columns), (rows, columns) = grouping.padding, grouping.regions
    if pad_rows or pad_columns:
        x = jnp.pad(x, ((0, 0), (0, pad_rows), (0, pad_columns), (0, 0)))
    (g_rows, g_columns), step = grouping.group, grouping.interval
    x = x.reshape(batch, rows, g_rows, step, columns, g_columns, step, channels)
    x = x.transpose(0, 1, 4, 3, 6, 2, 5, 7)  # (B, regions down, across, place in y, in x, G, G, C)
    return x.reshape(-1, grouping.tokens, channels)


def merge(groups: Array, grouping: Grouping) -> Array:
    """(B * groups, tokens, C) -> (B, H, W, C): undoes `partition` and cuts the padding off."""
    channels, (height, width) = groups.shape[-1], grouping.size
    (rows, columns), (g_rows, g_columns), step = grouping.regions, grouping.group, grouping.interval
    x = groups.reshape(-1, rows, columns, step, step, g_rows, g_columns, channels)
    x = x.transpose(0, 1, 5, 3, 2, 6, 4, 7)  # (B, regions down, G, place, regions across, G, place, C)
    x = x.reshape(x.shape[0], rows * g_rows * step, columns * g_columns * step, channels)
    return x[:, :height, :width]


def key_mask(grouping: Grouping) -> Array | None:
    """(groups of an image, tokens) float32: 0 on real cells, MASKED on padding; None if nothing is padded."""
    if grouping.padding == (0, 0):
        return None
    # Traced, not a constant: the map's size may be symbolic (`jax.export`).
    down, across = (jnp.arange(s + p) < s for s, p in zip(grouping.size, grouping.padding, strict=True))
    with_padding = jnp.where(down[:, None] & across, 0.0, MASKED)
    (rows, columns), (g_rows, g_columns), step = grouping.regions, grouping.group, grouping.interval
    cells = with_padding.reshape(rows, g_rows, step, columns, g_columns, step)
    return cells.transpose(0, 3, 2, 5, 1, 4).reshape(-1, grouping.tokens)


class GroupAttention(nn.Module):
    """Multi-head self-attention within groups, with dynamic position bias.

    Padded keys are masked, padded queries are cut off again, so no real cell sees the padding.

    Attributes:
      num_heads: must divide the width.
      group_size: side G of a group, in cells.
      interval: distance of a group's neighbouring cells; 1 for short-distance attention.
      grouping: how long-distance groups are cut, see `group_map`.
      long: whether the groups are long-distance ones.
      qkv_bias: whether the fused projection has a bias.
      qk_scale: replaces (width / heads) ** -0.5 when given.
      attn_drop_rate: dropout on the attention weights.
      drop_rate: dropout on the output.
      dtype: compute type.
    """

    num_heads: int
    group_size: int
    interval: int = 1
    grouping: GroupingKind = "regions"
    long: bool = False
    qkv_bias: bool = True
    qk_scale: float | None = None
    attn_drop_rate: float = 0.0
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, height, width, dim = x.shape
        heads = self.num_heads
        check_heads(dim, heads, "/".join(self.path))
        grouping = self._groups((height, width))
        # Projected before it is padded and after it is cut: padding costs no products but those of the
        # scores.
        qkv = partition(Dense(3 * dim, self.qkv_bias, self.dtype, name="qkv")(x), grouping)
        q, k, v = (t.reshape(*t.shape[:2], heads, -1) for t in jnp.split(qkv, 3, axis=-1))  # (B groups, N, H, D)
        bias = DynamicPositionBias(heads, dim // 16, name="position_bias")(grouping.group)[None]
        if (mask := key_mask(grouping)) is not None:
            bias = bias + jnp.tile(mask, (batch, 1))[:, None, None, :]
        dropout = nn.Dropout(self.attn_drop_rate, deterministic=False) if train and self.attn_drop_rate > 0 else None
        scale = (dim // heads) ** -0.5 if self.qk_scale is None else self.qk_scale
        y = attend(q, k, v, scale=scale, bias=bias, dropout=dropout, record=recorder(self))
        y = merge(y.reshape(-1, grouping.tokens, dim), grouping)
        y = Dense(dim, dtype=self.dtype, name="out")(y)
        return nn.Dropout(self.drop_rate)(y, deterministic=not train)

    def saved_macs(self, x: Array) -> int:
        """Multiply-accumulates on (B, H, W, C) that projecting the padding, as the released code does, would add.

        Only where groups span the whole map: the published figures of those models count the padding, those of the
        classifiers do not.
        """
        if self.grouping != "whole":
            return 0
        batch, height, width, dim = x.shape
        down, across = self._groups((height, width)).padding
        added: int = batch * ((height + down) * (width + across) - height * width) * 4 * dim * dim
        return added

    def _groups(self, size: tuple[int, int]) -> Grouping:
        return group_map(size, self.group_size, self.interval, self.grouping, self.long)
