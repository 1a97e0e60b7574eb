"""Adaptive average pooling: a map of any size becomes a fixed number of bins."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array
from crosscale.layers.kernels import resample, rounded_once


@rounded_once
def adaptive_average_pool(maps: Array, bins: int) -> Array:
    """(B, H, W, C) -> (B, bins, bins, C), as PyTorch does it, of the same type; sums are float32, which integers stay.

    Bin i averages the rows from floor(i H / bins) to before ceil((i + 1) H / bins), and columns likewise. Bins
    overlap where the side is no multiple of their number, and repeat where it is smaller. Sizes may be symbolic.
    """
    for axis in (1, 2):
        side = maps.shape[axis]
        if isinstance(side, int):
            maps = resample(maps, pooling_matrix(side, bins), axis)
        else:
            equation = "oh,bhwc->bowc" if axis == 1 else "ow,bhwc->bhoc"
            matrix = _weights(jnp, side, bins).astype(maps.dtype)
            maps = jnp.einsum(equation, matrix, maps, precision=jax.lax.Precision.HIGHEST)
    return maps


@lru_cache(maxsize=64)
def pooling_matrix(side: int, bins: int) -> np.ndarray:
    """(bins, side) float32: each bin's weights, 1 in sum."""
    matrix: np.ndarray = _weights(np, side, bins).astype(np.float32)
    return matrix


def _weights(xp: Any, side: Any, bins: int) -> Any:
    number, place = xp.arange(bins)[:, None], xp.arange(side)[None]
    start, end = number * side // bins, -((-(number + 1) * side) // bins)
    return ((place >= start) & (place < end)) / (end - start)
