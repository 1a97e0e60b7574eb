"""From the logits of a map's cells to a label for every pixel of the picture as it came."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from crosscale.contracts import Array

ROWS, COLUMNS = 32, 128  # of the picture at a time: logits at its full size would be gigabytes
SLACK = 128  # by how much a canvas may be larger than its pictures
IGNORED = 255  # in a mask: a pixel that does not count
FEW = (8, 32)  # a tile is computed with the least of these numbers of classes that holds all it may show
MARGIN = 1e-5  # of the largest logit: what rounding may add to a class's logit between cells


@partial(jax.jit, static_argnames=("network", "canvas"))
def label_maps(cells: Array, sizes: Array, *, network: tuple[int, int], canvas: tuple[int, int]) -> Array:
    """The label of the largest logit, at the pictures' own resolution.

    As the released evaluation does, the logits are enlarged to the network's input and from there to the picture,
    bilinearly with half-pixel centres; both steps are taken at once, a tile at a time, and only for classes that
    can be the largest there.

    Args:
      cells: (B, h, w, classes) logits.
      sizes: (B, 2) heights and widths of the pictures as they came, whole numbers above 0.
      network: height and width at which the pictures were fed.
      canvas: height and width of the result, no smaller than any of `sizes` and less than `SLACK` larger; the height
        is a multiple of `ROWS`.

    Returns:
      (B, *canvas) uint8; `IGNORED` in pictures with a logit that is not finite. What lies beyond a picture's own
      size means nothing.
    """
    one = partial(_label_map, network=network, canvas=canvas)
    labels: Array = lax.map(lambda pair: one(*pair), (cells.astype(jnp.float32), sizes))
    return labels


def _label_map(cells: Array, size: Array, *, network: tuple[int, int], canvas: tuple[int, int]) -> Array:
    rows, tops, high = _side(cells.shape[0], network[0], size[0], canvas[0], ROWS)
    columns, lefts, wide = _side(cells.shape[1], network[1], size[1], canvas[1], math.gcd(canvas[1], COLUMNS))
    by_class = cells.swapaxes(1, 2)  # (h, classes, w): both enlargements are plain products
    margins = _margins(by_class)
    seen = min(margins.shape[0], high // 2 + 1), by_class.shape[1], min(margins.shape[2], wide // 2 + 1)

    def tile(place: Array) -> Array:
        row, column = place // len(lefts), place % len(lefts)
        near = lax.dynamic_slice(by_class, (tops[row], 0, lefts[column]), (high, by_class.shape[1], wide))
        down = lax.dynamic_slice_in_dim(rows[row], tops[row], high, 1)
        across = lax.dynamic_slice_in_dim(columns[column], lefts[column], wide, 1)
        shown = lax.dynamic_slice(margins, (tops[row] // 2, 0, lefts[column] // 2), seen).max((0, 2))
        return _among_candidates(partial(_largest, down, across), near, shown).astype(jnp.uint8)

    tiles = lax.map(tile, jnp.arange(len(tops) * len(lefts)))
    labels = tiles.reshape(len(tops), len(lefts), *tiles.shape[1:]).swapaxes(1, 2).reshape(canvas)
    return jnp.where(jnp.isfinite(cells).all(), labels, jnp.uint8(IGNORED))


def _side(cells: int, network: int, size: Array, canvas: int, step: int) -> tuple[Array, Array, int]:
    """One side of the enlargement, in tiles of `step` pixels: (tiles, step, cells) shares of the cells in each pixel,
    (tiles,) the first cell that a tile needs, and how many it needs."""
    first, second, share = _taps(canvas, network, size)
    shares = _matrix(first, second, share, network) @ jnp.asarray(_static_matrix(network, cells))
    # Cells under a tile, and at both ends the neighbours of two interpolations.
    reach = min(cells, math.ceil(step * cells / max(canvas - SLACK + 1, 1)) + 4)
    starts = jnp.asarray(_static_taps(network, cells)[0])[first[::step]]
    return shares.reshape(-1, step, cells), jnp.clip(starts, 0, cells - reach), reach


def _largest(down: Array, across: Array, near: Array) -> Array:
    """(h, classes, w) logits -> (rows, columns) positions of the largest between the cells; of equal ones the first."""
    high, classes, wide = near.shape
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    x = product(down, near.reshape(high, classes * wide)).reshape(-1, wide)
    x = product(x, across.T).reshape(len(down), classes, len(across))
    # Two plain reductions; XLA:CPU does not vectorise argmax.
    place = jnp.arange(classes, dtype=jnp.int32)[:, None]
    return jnp.where(x == x.max(1, keepdims=True), place, classes).min(1)


def _among_candidates(largest: Callable[[Array], Array], near: Array, margins: Array) -> Array:
    """What `largest` gives for logits (h, classes, w), computed with as few of the classes as that takes.

    Args:
      margins: (classes,) below 0 for what cannot be the largest.
    """
    classes = near.shape[1]
    counts = [count for count in FEW if count < classes]

    def among(count: int, near: Array) -> Array:
        kept = jnp.sort(lax.top_k(margins, count)[1])  # in order: of equal logits the first class is the label
        chosen: Array = kept[largest(jnp.take(near, kept, 1))]
        return chosen

    needed = (margins >= 0).sum()
    which = sum(((needed > count).astype(jnp.int32) for count in counts), jnp.int32(0))
    found: Array = lax.switch(which, [*(partial(among, count) for count in counts), largest], near)
    return found


def _margins(cells: Array) -> Array:
    """(h, classes, w) logits -> (windows, classes, windows): below 0 for a class that is nowhere the largest there.

    An interpolated logit is a mean of the 3 x 3 cells around it at most. A class whose largest logit among these is
    below the smallest of another class there cannot win. The windows looked at are of 4 x 4 cells, two apart, so that
    one of them holds any 3 x 3.
    """
    high, low = _windows(cells, jnp.maximum), _windows(cells, jnp.minimum)
    return high - (low.max(1, keepdims=True) - MARGIN * jnp.abs(cells).max())


def _windows(x: Array, join: Callable[[Array, Array], Array]) -> Array:
    """(h, classes, w) -> the windows' extremes, along both sides."""
    for axis in (0, 2):
        cut = partial(lax.slice_in_dim, axis=axis)
        if x.shape[axis] % 2:
            x = jnp.concatenate([x, cut(x, x.shape[axis] - 1, None)], axis)
        x = join(cut(x, 0, None, 2), cut(x, 1, None, 2))
        if (pairs := x.shape[axis]) > 1:  # one pair is a window of its own
            x = join(cut(x, 0, pairs - 1), cut(x, 1, pairs))
    return x


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
