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
BLOCK = 4  # cells; what a tile's classes may be is first told from blocks
FEW = (8, 32)  # a tile is enlarged for the least of these numbers of classes that is enough
MARGIN = 1e-5  # of the largest logit: what rounding may change of a logit between cells


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
    # What is taken from every class of a cell alike is taken from every class between the cells: it moves no largest.
    largest = cells.max(-1, keepdims=True)
    blocks, margin = _blocks(cells - largest), MARGIN * jnp.abs(cells).max()
    seen = tuple(min(count, side // BLOCK + 2) for count, side in zip(blocks.shape[:2], (high, wide), strict=True))

    def tile(place: Array) -> Array:
        row, column = place // len(lefts), place % len(lefts)
        down = lax.dynamic_slice_in_dim(rows[row], tops[row], high, 1)
        across = lax.dynamic_slice_in_dim(columns[column], lefts[column], wide, 1)
        starts = [
            jnp.clip(first // BLOCK, 0, whole - count)
            for first, whole, count in zip((tops[row], lefts[column]), blocks.shape[:2], seen, strict=True)
        ]

        def near(label: Array | int, count: int = 1) -> Array:  # (h, w, count) logits, from the label on
            firsts = tops[row], lefts[column]
            found = lax.dynamic_slice(cells, (*firsts, label), (high, wide, count))
            return found - lax.dynamic_slice(largest, (*firsts, 0), (high, wide, 1))

        def in_cells(found: Array) -> Array:  # of the blocks -> (h, w)
            spread = found.repeat(BLOCK, 0).repeat(BLOCK, 1)
            firsts = tops[row] - BLOCK * starts[0], lefts[column] - BLOCK * starts[1]
            return lax.dynamic_slice(spread, firsts, (high, wide))

        over = lax.dynamic_slice(blocks, (*starts, 0), (*seen, blocks.shape[2]))
        return _labels(partial(_enlarged, down, across), near, over, in_cells, margin).astype(jnp.uint8)

    tiles = lax.map(tile, jnp.arange(len(tops) * len(lefts)))
    labels = tiles.reshape(len(tops), len(lefts), *tiles.shape[1:]).swapaxes(1, 2).reshape(canvas)
    return jnp.where(jnp.isfinite(cells).all(), labels, jnp.uint8(IGNORED))


def _blocks(x: Array) -> Array:
    """(h, w, classes) -> the largest of each class in blocks of `BLOCK` x `BLOCK` cells, the last ones cut short."""
    counts = [-(-side // BLOCK) for side in x.shape[:2]]
    short = [BLOCK * count - side for count, side in zip(counts, x.shape[:2], strict=True)]
    x = jnp.pad(x, [(0, short[0]), (0, short[1]), (0, 0)], constant_values=-jnp.inf)
    return x.reshape(counts[0], BLOCK, counts[1], BLOCK, -1).max((1, 3))


def _side(cells: int, network: int, size: Array, canvas: int, step: int) -> tuple[Array, Array, int]:
    """One side of the enlargement, in tiles of `step` pixels: (tiles, step, cells) shares of the cells in each pixel,
    (tiles,) the first cell that a tile needs, and how many it needs."""
    first, second, share = _taps(canvas, network, size)
    shares = _matrix(first, second, share, network) @ jnp.asarray(_static_matrix(network, cells))
    # Cells under a tile, and at both ends the neighbours of two interpolations.
    reach = min(cells, math.ceil(step * cells / max(canvas - SLACK + 1, 1)) + 4)
    starts = jnp.asarray(_static_taps(network, cells)[0])[first[::step]]
    return shares.reshape(-1, step, cells), jnp.clip(starts, 0, cells - reach), reach


def _enlarged(down: Array, across: Array, near: Array) -> Array:
    """(h, w, classes) logits -> (rows, classes, columns) between the cells."""
    high, wide, classes = near.shape
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    x = product(down, near.swapaxes(1, 2).reshape(high, classes * wide)).reshape(-1, wide)
    enlarged: Array = product(x, across.T).reshape(len(down), classes, len(across))
    return enlarged


def _largest(logits: Array) -> Array:
    """(rows, classes, columns) -> (rows, columns) positions of the largest; of equal ones the first."""
    classes = logits.shape[1]
    # Two plain reductions; XLA:CPU does not vectorise argmax.
    place = jnp.arange(classes, dtype=jnp.int32)[:, None]
    return jnp.where(logits == logits.max(1, keepdims=True), place, classes).min(1)


def _labels(
    enlarge: Callable[[Array], Array],
    near: Callable[..., Array],
    over: Array,
    in_cells: Callable[[Array], Array],
    margin: Array,
) -> Array:
    """Labels of the pixels between some cells, enlarging as few of the classes as that takes.

    The classes that come closest to the largest of some cell are enlarged, and beside them, as one more, a bound of all
    others in each cell. No other class is above that one between the cells. So where it stays below the largest of the
    few everywhere, none of the others is the largest anywhere; else more classes are enlarged.

    Args:
      enlarge: (h, w, classes) -> (rows, classes, columns).
      near: (label, count) -> (h, w, count) logits less the largest of their cell, so 0 at most.
      over: (blocks, blocks, classes) their largest in the blocks that hold these cells.
      in_cells: what a block says -> what it says of each cell.
      margin: what rounding may make of the difference of two logits between cells.
    """
    classes = over.shape[2]
    closest = over.max((0, 1))  # 0 for a class that is the largest of some cell

    def every() -> Array:
        return _largest(enlarge(near(0, classes)))

    def among(count: int, otherwise: Callable[[], Array]) -> Array:
        kept = jnp.sort(lax.top_k(closest, count)[1])  # in order: of equal logits the first class is the label
        other = jnp.ones(classes, bool).at[kept].set(False)
        bound = in_cells(jnp.where(other, over, -jnp.inf).max(2))[:, :, None]
        x = enlarge(jnp.concatenate([*(near(label) for label in kept), bound], 2))
        few = x[:, :count]
        sure = (x[:, count] < few.max(1) - margin).all()
        labels: Array = lax.cond(sure, lambda: kept[_largest(few)], otherwise)
        return labels

    counts = [count for count in FEW if count < classes]
    ways: list[Callable[[], Array]] = [every]
    for count in reversed(counts):
        ways.insert(0, partial(among, count, ways[0]))
    largest = (closest == 0).sum()
    found: Array = lax.switch(sum(((largest > count).astype(jnp.int32) for count in counts), jnp.int32(0)), ways)
    return found


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
