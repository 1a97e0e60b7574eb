"""From the logits of a map's cells to a label for every pixel of the picture as it came."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from crosscale.contracts import Array

ROWS = 32  # of the picture at a time: logits at its full size would be gigabytes
IGNORED = 255  # in a mask: a pixel that does not count


@partial(jax.jit, static_argnames=("network", "canvas"))
def label_maps(cells: Array, sizes: Array, *, network: tuple[int, int], canvas: tuple[int, int]) -> Array:
    """The label of the largest logit, at the pictures' own resolution.

    As the released evaluation does, the logits are enlarged to the network's input and from there to the picture,
    bilinearly with half-pixel centres; both steps are taken at once, a few rows at a time.

    Args:
      cells: (B, h, w, classes) logits.
      sizes: (B, 2) heights and widths of the pictures as they came, whole numbers above 0.
      network: height and width at which the pictures were fed.
      canvas: height and width of the result, no smaller than any of `sizes`; the height is a multiple of `ROWS`.

    Returns:
      (B, *canvas) uint8; `IGNORED` in pictures of which a logit is not finite. What lies beyond a picture's own
      size means nothing.
    """
    one = partial(_label_map, network=network, canvas=canvas)
    labels: Array = lax.map(lambda pair: one(*pair), (cells.astype(jnp.float32), sizes))
    return labels


def _label_map(cells: Array, size: Array, *, network: tuple[int, int], canvas: tuple[int, int]) -> Array:
    height, width = cells.shape[:2]
    rows = _matrix(*_taps(canvas[0], network[0], size[0]), network[0])
    rows = rows @ jnp.asarray(_static_matrix(network[0], height))
    columns = _static_taps(network[1], width)
    own = _taps(canvas[1], network[1], size[1])

    def block(part: Array) -> Array:
        x = jnp.einsum("rh,hwc->rwc", part, cells, precision=lax.Precision.HIGHEST)
        return _between(_between(x, *columns), *own).argmax(-1).astype(jnp.uint8)

    labels = lax.map(block, rows.reshape(-1, ROWS, height)).reshape(canvas)
    return jnp.where(jnp.isfinite(cells).all(), labels, jnp.uint8(IGNORED))


def _taps(count: int, length: int, new_length: Any) -> tuple[Any, Any, Any]:
    """For pixels 0..count-1 of a side of `length` resized to `new_length`: two neighbours, and the second's share."""
    place = (jnp.arange(count, dtype=jnp.float32) + 0.5) * (length / new_length) - 0.5
    place = jnp.clip(place, 0, length - 1)
    first = place.astype(jnp.int32)
    return first, jnp.minimum(first + 1, length - 1), place - first


def _static_taps(new_length: int, length: int) -> tuple[Any, Any, Any]:
    place = np.clip((np.arange(new_length, dtype=np.float64) + 0.5) * (length / new_length) - 0.5, 0, length - 1)
    first = place.astype(np.int32)
    return first, np.minimum(first + 1, length - 1), (place - first).astype(np.float32)


def _matrix(first: Any, second: Any, share: Any, length: int) -> Array:
    """The taps as (pixels, length)."""
    one_hot = partial(jax.nn.one_hot, num_classes=length, dtype=jnp.float32)
    matrix: Array = one_hot(first) * (1 - share[:, None]) + one_hot(second) * share[:, None]
    return matrix


def _static_matrix(new_length: int, length: int) -> np.ndarray:
    first, second, share = _static_taps(new_length, length)
    matrix = np.zeros((new_length, length), np.float32)
    every = np.arange(new_length)
    matrix[every, first] += 1 - share
    matrix[every, second] += share
    return matrix


def _between(x: Array, first: Any, second: Any, share: Any) -> Array:
    """(rows, columns, C) -> (rows, new columns, C)."""
    share = share[:, None]
    return jnp.take(x, first, 1) * (1 - share) + jnp.take(x, second, 1) * share
