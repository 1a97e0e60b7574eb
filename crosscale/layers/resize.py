"""PyTorch's resampling of pictures and maps: bicubic, bilinear and nearest, with half-pixel centres and no antialias.

Bicubic (a = -0.75) is two constant matrix products. `jax.image.resize(method="cubic")` is another kernel: a = -0.5,
with antialias by default. Bilinear by a whole factor, which is how maps grow in the heads, is a few shifted sums.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array
from crosscale.layers.kernels import resample, rounded_once

_A = -0.75


@lru_cache(maxsize=64)
def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """(size_out, size_in) float32 matrix of the cubic convolution kernel, edge samples repeated."""
    centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((size_out, size_in))
    for tap in range(-1, 3):
        distance = np.abs(centre - (first + tap))
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        column = np.clip(first + tap, 0, size_in - 1)
        np.add.at(matrix, (np.arange(size_out), column), np.where(distance <= 1, near, far))
    return matrix.astype(np.float32)


@rounded_once
def resize_bicubic(images: Array, size: tuple[int, int]) -> Array:
    """(B, H, W, C) -> (B, *size, C), of the same type; sums are float32, which integers stay.

    The identity when the size is already right, but for integers' type.
    """
    height, width = images.shape[1:3]
    if height != size[0]:
        images = resample(images, bicubic_matrix(height, size[0]), axis=1)
    if width != size[1]:
        images = resample(images, bicubic_matrix(width, size[1]), axis=2)
    return images


@rounded_once
def resize_bilinear(maps: Array, size: tuple[Any, ...], covered: tuple[Any, ...] | None = None) -> Array:
    """(B, H, W, C) -> (B, *size, C), of the same type; sums are float32, which integers stay.

    The identity when the size is right, but for integers' type. Sizes may be symbolic.

    Args:
      maps: (B, H, W, C).
      size: rows and columns of the result.
      covered: how many of them `maps` lies on, from the top left, fractions too; what is beyond repeats the edge.
        All of them when None.
    """
    for axis, new, on in zip((1, 2), size, covered or size, strict=True):
        old = maps.shape[axis]
        if on != new:
            maps = resample(maps, bilinear_matrix(old, new, on), axis)
            continue
        if old == new:
            continue
        if (factor := _whole_factor(old, new)) is not None:
            maps = _grown(maps, factor, axis)
        elif isinstance(old, int) and isinstance(new, int):
            maps = resample(maps, bilinear_matrix(old, new), axis)
        else:
            shape = tuple(new if place == axis else side for place, side in enumerate(maps.shape))
            maps = jax.image.resize(maps, shape, "linear", antialias=False)
    return maps


def resize_nearest(maps: Array, size: tuple[Any, ...]) -> Array:
    """(B, H, W, C) -> (B, *size, C): row i is row floor(i * H / rows), as PyTorch's "nearest" takes it.

    `jax.image.resize` takes other rows unless the factor is whole. Sizes may be symbolic.
    """
    for axis, new in zip((1, 2), size, strict=True):
        old = maps.shape[axis]
        if old == new:
            continue
        if (factor := _whole_factor(old, new)) is not None:
            maps = jnp.repeat(maps, factor, axis)
        else:
            maps = jnp.take(maps, jnp.arange(new) * old // new, axis, mode="clip")
    return maps


@lru_cache(maxsize=64)
def bilinear_matrix(size_in: int, size_out: int, covered: float | None = None) -> np.ndarray:
    """(size_out, size_in) float32 matrix of bilinear interpolation, edge samples repeated; see `resize_bilinear`."""
    centre = np.clip((np.arange(size_out) + 0.5) * (size_in / (covered or size_out)) - 0.5, 0, size_in - 1)
    distance = np.abs(centre[:, None] - np.arange(size_in))
    return np.maximum(1 - distance, 0).astype(np.float32)


def _whole_factor(old: Any, new: Any) -> int | None:
    """How often `old` fits into `new`; None where it does not, or where the answer is unknown."""
    if isinstance(old, int) and isinstance(new, int):
        return new // old if new % old == 0 else None
    return next((factor for factor in (2, 4, 8, 16, 32) if new == factor * old), None)


def _grown(x: Array, factor: int, axis: int) -> Array:
    """Bilinear interpolation to `factor` times the size: every new cell lies between an old one and a neighbour."""
    length = x.shape[axis]
    first, last = (jax.lax.slice_in_dim(x, at, at + 1, axis=axis) for at in (0, length - 1))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
    behind = jnp.concatenate([jax.lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        neighbour = before if offset < 0 else behind
        phases.append(x * (1 - abs(offset)) + neighbour * abs(offset))
    shape = tuple(side * factor if place == axis else side for place, side in enumerate(x.shape))
    return jnp.stack(phases, axis + 1).reshape(shape)


def center_crop(images: Array, size: tuple[int, int]) -> Array:
    """Cuts the centre `size` out of (B, H, W, C); offsets are rounded half to even, as Python's round."""
    top = round((images.shape[1] - size[0]) / 2)
    left = round((images.shape[2] - size[1]) / 2)
    return images[:, top : top + size[0], left : left + size[1]]
