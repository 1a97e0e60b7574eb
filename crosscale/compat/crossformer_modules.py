"""The parts of vit-pytorch's CrossFormer: cross-scale convolutions, windows, the dynamic position bias."""

import math
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crosscale.compat.torch_modules import FeedForward, Linear, layer_norm
from crosscale.contracts import Array, Features
from crosscale.errors import RequestError
from crosscale.layers.attention import attend
from crosscale.layers.conv import Conv
from crosscale.models.model import check_images

PositionIndex = Literal["vit_pytorch", "corrected"]
DIM_HEAD = 32  # the package fixes the width of a head
MLP_RATIO = 4
MAX_SIDE = 8192


@dataclass(frozen=True)
class StageSizes:
    """One stage: width, attention pairs, the embedding's kernels and stride, the sides of its two windows."""

    dim: int
    depth: int
    kernel_sizes: tuple[int, ...]
    stride: int
    short_window: int
    long_window: int

    def side(self, before: int) -> int:
        """Side of the stage's map, given that of the map (or picture) before it."""
        kernel = self.kernel_sizes[0]
        return (before + 2 * ((kernel - self.stride) // 2) - kernel) // self.stride + 1

    def fits(self, side: int) -> bool:
        """Whether both windows divide a map of this side."""
        return side > 0 and side % self.short_window == 0 and side % self.long_window == 0


def side_fits(stages: tuple[StageSizes, ...], side: int) -> bool:
    """Whether a picture of this side, in pixels, passes through all stages."""
    for stage in stages:
        side = stage.side(side)
        if not stage.fits(side):
            return False
    return True


def working_sides(stages: tuple[StageSizes, ...]) -> list[int]:
    """The picture sides that fit, rising, up to MAX_SIDE; where possible those that leave no pixel unseen."""
    sides = [side for side in range(1, MAX_SIDE + 1) if side_fits(stages, side)]
    whole = math.prod(stage.stride for stage in stages)
    return [side for side in sides if side % whole == 0] or sides


def scale_widths(dim: int, scales: int) -> tuple[int, ...]:
    """Channels per kernel, smallest kernel first: dim/2, dim/4, ...; the last takes what is left."""
    halves = [dim // 2**i for i in range(1, scales)]
    return (*halves, dim - sum(halves))


class CrossScaleEmbedding(nn.Module):
    """Convolutions of several kernel sizes at one stride, concatenated: (B, H, W, C) -> (B, H', W', dim)."""

    dim: int
    kernel_sizes: tuple[int, ...]
    stride: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernels = sorted(self.kernel_sizes)
        maps = [
            Conv(width, k, self.stride, (k - self.stride) // 2, dtype=self.dtype, name=f"conv_{i}")(x)
            for i, (k, width) in enumerate(zip(kernels, scale_widths(self.dim, len(kernels)), strict=True))
        ]
        return jnp.concatenate(maps, axis=-1)


def bias_coordinates(window: int, index: PositionIndex) -> np.ndarray:
    """The (row, column) that the bias network is asked for, per entry of the table of relative offsets.

    Entry (dy + w - 1) * (2w - 1) + (dx + w - 1) belongs to the offset (dy, dx), each in 1-w..w-1. "corrected"
    gives that offset. "vit_pytorch" gives what the package reads there: its table has 2w + 1 columns and
    starts at (-w, -w), so that entry n holds (n // (2w + 1) - w, n % (2w + 1) - w).

    Returns ((2w - 1)^2, 2) float32.
    """
    side, first = (2 * window - 1, 1 - window) if index == "corrected" else (2 * window + 1, -window)
    entry = np.arange((2 * window - 1) ** 2)
    return np.stack([entry // side + first, entry % side + first], axis=-1).astype(np.float32)


def offset_entries(window: int) -> np.ndarray:
    """(w*w, w*w) int: the table's entry for each pair of query and key positions in a window."""
    row, col = np.divmod(np.arange(window * window), window)
    rows, cols = np.subtract.outer(row, row), np.subtract.outer(col, col)
    return np.asarray((rows + window - 1) * (2 * window - 1) + cols + window - 1)


class PositionBias(nn.Module):
    """Dynamic position bias: a small network from a relative offset to one number that all heads share.

    Attributes:
      hidden_dim: width of the network's three hidden layers.
      window: side w of the window.
      position_index: which coordinates the network is asked for; see `bias_coordinates`.
      dtype: compute type.
    """

    hidden_dim: int
    window: int
    position_index: PositionIndex = "vit_pytorch"
    dtype: Any = None

    @nn.compact
    def __call__(self) -> Array:
        """(w*w, w*w): the bias per query and key."""
        x: Array = jnp.asarray(bias_coordinates(self.window, self.position_index))
        for i in range(3):
            x = Linear(self.hidden_dim, dtype=self.dtype, name=f"project_{i}")(x)
            x = nn.relu(layer_norm(self.dtype, f"norm_{i}")(x))
        table = Linear(1, dtype=self.dtype, name="out")(x)[:, 0]
        return table[offset_entries(self.window)]


class WindowAttention(nn.Module):
    """Pre-norm attention inside w x w groups of a map; no residual.

    Attributes:
      long: groups take every (H/w)-th row and every (W/w)-th column, so that each spans the whole map;
        otherwise they are adjacent w x w windows.
      window: side w of a group; must divide both sides of the map.
      drop_rate: dropout on the attention weights.
      position_index: see `bias_coordinates`.
      dtype: compute type.
    """

    long: bool
    window: int
    drop_rate: float = 0.0
    position_index: PositionIndex = "vit_pytorch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width, dim = x.shape[1:]
        heads, w = dim // DIM_HEAD, self.window
        x = self._split(layer_norm(self.dtype, "norm")(x))
        qkv = Linear(3 * heads * DIM_HEAD, use_bias=False, dtype=self.dtype, name="qkv")(x)
        q, k, v = (t.reshape(-1, w * w, heads, DIM_HEAD) for t in jnp.split(qkv, 3, axis=-1))  # (groups, N, H, D)
        bias = PositionBias(dim // 4, w, self.position_index, self.dtype, name="position_bias")()
        dropout = nn.Dropout(self.drop_rate, deterministic=not train)
        y = attend(q, k, v, scale=DIM_HEAD**-0.5, bias=bias, dropout=dropout)
        y = Linear(dim, dtype=self.dtype, name="out")(y.reshape(-1, w * w, heads * DIM_HEAD))
        return self._join(y, height, width)

    def _split(self, x: Array) -> Array:
        batch, height, width, dim = x.shape
        w, rows, cols = self.window, height // self.window, width // self.window
        if self.long:
            x = x.reshape(batch, w, rows, w, cols, dim).transpose(0, 2, 4, 1, 3, 5)
        else:
            x = x.reshape(batch, rows, w, cols, w, dim).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, w * w, dim)

    def _join(self, x: Array, height: int, width: int) -> Array:
        w, rows, cols = self.window, height // self.window, width // self.window
        x = x.reshape(-1, rows, cols, w, w, x.shape[-1])
        x = x.transpose(0, 3, 1, 4, 2, 5) if self.long else x.transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, height, width, x.shape[-1])


class AttentionPair(nn.Module):
    """Short attention, feed-forward, long attention, feed-forward, each with a residual, on (B, H, W, C)."""

    short_window: int
    long_window: int
    attn_drop_rate: float = 0.0
    drop_rate: float = 0.0
    position_index: PositionIndex = "vit_pytorch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        hidden = MLP_RATIO * x.shape[-1]
        for kind, window in (("short", self.short_window), ("long", self.long_window)):
            attention = WindowAttention(
                kind == "long",
                window,
                self.attn_drop_rate,
                self.position_index,
                self.dtype,
                name=f"{kind}_attention",
            )
            x = attention(x, train) + x
            x = FeedForward(hidden, self.drop_rate, dtype=self.dtype, name=f"{kind}_mlp")(x, train) + x
        return x


class Stage(nn.Module):
    """Cross-scale embedding and its attention pairs: (B, H, W, C) -> (B, H', W', dim)."""

    sizes: StageSizes
    attn_drop_rate: float = 0.0
    drop_rate: float = 0.0
    position_index: PositionIndex = "vit_pytorch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        sizes = self.sizes
        x = CrossScaleEmbedding(sizes.dim, sizes.kernel_sizes, sizes.stride, self.dtype, name="embed")(x)
        for i in range(sizes.depth):
            x = AttentionPair(
                sizes.short_window,
                sizes.long_window,
                self.attn_drop_rate,
                self.drop_rate,
                self.position_index,
                self.dtype,
                name=f"pair_{i}",
            )(x, train)
        return x


class CrossFormerBackbone(nn.Module):
    """The stages one after the other; pooled is the plain mean over the last map."""

    stages: tuple[StageSizes, ...]
    channels: int
    attn_drop_rate: float = 0.0
    drop_rate: float = 0.0
    position_index: PositionIndex = "vit_pytorch"
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Features:
        check_images(images, self.channels)
        self._check_size(images.shape[1], images.shape[2])
        rates = (self.attn_drop_rate, self.drop_rate)
        x, maps = images, []
        for s, sizes in enumerate(self.stages):
            x = Stage(sizes, *rates, self.position_index, self.dtype, name=f"stage_{s}")(x, train)
            maps.append(x)
        strides = tuple(accumulate((stage.stride for stage in self.stages), mul))
        return Features((x.mean(axis=(1, 2)),), tuple(maps), strides)

    def _check_size(self, height: int, width: int) -> None:
        sides = (height, width)
        for s, stage in enumerate(self.stages):
            sides = (stage.side(sides[0]), stage.side(sides[1]))
            if not (stage.fits(sides[0]) and stage.fits(sides[1])):
                what = _nearest(working_sides(self.stages), height, width)
                raise RequestError(
                    f"vit_pytorch.CrossFormer: {height} x {width} pixels: stage {s}'s map of "
                    f"{max(sides[0], 0)} x {max(sides[1], 0)} does not divide into its windows of "
                    f"{stage.short_window} and {stage.long_window}; {what}"
                )


def _nearest(working: list[int], height: int, width: int) -> str:
    """The working sides next below and above each side of a picture, in words."""
    near = set()
    for side in (height, width):
        near |= {max((n for n in working if n <= side), default=0), min((n for n in working if n > side), default=0)}
    return f"nearest sides that work: {', '.join(map(str, sorted(near - {0})))}" if working else "no side works"
