"""RoIAlign (Mask R-CNN, section 3) with as many samples as a box needs, and masks pasted back into their boxes.

Bilinear interpolation is separable: along each axis a bin is a mean of a few neighbouring cells with fixed weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from crosscale.layers.boxes import box_areas
from crosscale.layers.kernels import each
from crosscale.layers.kernels.choice import asked

Array = jax.Array

CHUNK = 16  # boxes that are read together
CELLS = 2**17  # cells, with repetitions, that are read together at most, be it in parts of a chunk
SAMPLES = 8  # along an axis of a bin, of masks
WINDOWS = (2, 3, 4, 5, 9, 17)  # cells along an axis that a bin reads; more than these take what the map has


def pyramid_levels(boxes: Array, levels: int, finest: float = 56.0) -> Array:
    """The level that a box is read from: (..., 4) -> (...) int in 0..levels - 1.

    floor(log2(sqrt(area) / finest)), where `finest` is the side in pixels from which the second level is halfway off
    (FPN, equation 1, as the released code has it).
    """
    side = jnp.sqrt(jnp.maximum(box_areas(boxes), 0.0))
    return jnp.clip(jnp.floor(jnp.log2(side / finest + 1e-6)), 0, levels - 1).astype(jnp.int32)


class _Axis(NamedTuple):
    """One axis of all boxes: where each begins and how long it is, in cells; how many samples a bin takes; the map."""

    start: Array
    length: Array
    samples: Array
    cells: Array


def roi_align(
    maps: Sequence[Array],
    boxes: Array,
    batch: Array,
    *,
    strides: Sequence[int],
    size: int,
    levels: Array | None = None,
) -> Array:
    """What lies in boxes, on a grid: (R, size, size, C). The reference's with `aligned=True, sampling_ratio=0`.

    Along each axis a bin is the mean of as many samples as it is cells long, rounded up.
    A sample beyond the map's rim by more than a cell is 0, others are moved to the rim; a box without width or height
    gives zeros.

    Args:
      maps: (B, H, W, C) of each level; what is read from whole numbers is float32.
      boxes: (R, 4) in pixels of the image, no longer than it.
      batch: (R,) int, which image a box lies in.
      strides: pixels of a cell, of each level.
      size: bins along each axis.
      levels: (R,) int, which map a box is read from; the first when None.
    """
    levels = jnp.zeros(boxes.shape[0], jnp.int32) if levels is None else levels
    flat = jnp.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    areas = [m.shape[1] * m.shape[2] for m in maps]
    begins = [sum(m.shape[0] * area for m, area in zip(maps[:i], areas[:i], strict=True)) for i in range(len(maps))]
    facts = ([m.shape[1] for m in maps], [m.shape[2] for m in maps], areas, begins)
    rows, columns, area, begin = (jnp.asarray(values)[levels] for values in facts)
    cells = boxes.astype(jnp.float32) / jnp.asarray(strides, jnp.float32)[levels][:, None] - 0.5
    y = _axis(cells[:, 1], cells[:, 3], rows, size)
    x = _axis(cells[:, 0], cells[:, 2], columns, size)
    first = begin + batch * area
    widest = max(max(m.shape[1:3]) for m in maps)
    longest = -(-widest // size) + 1
    windows = [k for k in WINDOWS if k < longest] + [longest]
    needed = jnp.maximum(y.samples, x.samples) + 1
    if asked().rows == "loop":
        return _one_by_one(flat, needed, y, x, first, columns, windows, size)
    order, chunks = _in_chunks(needed)

    def read(window: int, which: Array) -> Array:
        picked = jax.tree.map(lambda part: part[which], (y, x))
        read_one = jax.checkpoint(lambda y, x, at, width: _read(flat, y, x, at, width, window, size))
        given = (*picked, first[which], columns[which])
        together = 1 << (max(1, CELLS // (size * window) ** 2).bit_length() - 1)  # divides a chunk
        if together < CHUNK:
            return lax.map(lambda box: read_one(*box), given, batch_size=together)
        return jax.vmap(read_one)(*given)

    def chunk(which: Array) -> Array:
        place = jnp.searchsorted(jnp.asarray(windows), needed[which].max())
        branches = [lambda which, window=window: read(window, which) for window in windows]
        return lax.switch(jnp.minimum(place, len(windows) - 1), branches, which)

    found = lax.map(chunk, chunks).reshape(-1, size, size, flat.shape[-1])[: boxes.shape[0]]
    return jnp.zeros_like(found).at[order].set(found)


def _one_by_one(
    flat: Array, needed: Array, y: _Axis, x: _Axis, begin: Array, width: Array, windows: Sequence[int], size: int
) -> Array:
    """The same without a sort, box after box, each in the smallest window that does."""

    def one(needed: Array, y: _Axis, x: _Axis, begin: Array, width: Array) -> Array:
        def smallest(windows: Sequence[int]) -> Array:
            window, *larger = windows
            read = partial(_read, flat, y, x, begin, width, window, size)
            return lax.cond(needed <= window, read, partial(smallest, larger)) if larger else read()

        return smallest(windows)

    found: Array = each(one)(needed, y, x, begin, width)
    return found


def _axis(start: Array, end: Array, cells: Array, size: int) -> _Axis:
    length = end - start
    return _Axis(start, length, jnp.maximum(jnp.ceil(length / size), 0.0), cells.astype(jnp.float32))


def _in_chunks(needed: Array) -> tuple[Array, Array]:
    """The boxes' order by what they need, and the same in rows of `CHUNK`, the last filled up with its last box."""
    order = jnp.argsort(needed, stable=True)
    count = needed.shape[0]  # which may be symbolic in a program that is exported
    chunks = (count + CHUNK - 1) // CHUNK
    return order, jnp.pad(order, (0, chunks * CHUNK - count), mode="edge").reshape(chunks, CHUNK)


def _weights(axis: _Axis, window: int, size: int) -> tuple[Array, Array]:
    """One box: the first cell of each bin, (size,), and the mean weights of it and its neighbours, (size, window)."""
    bin_ = axis.length / size
    s = jnp.arange(window - 1, dtype=jnp.float32)
    begin = axis.start + jnp.arange(size, dtype=jnp.float32) * bin_
    at = begin[:, None] + (s + 0.5) * (bin_ / jnp.maximum(axis.samples, 1.0))
    live = (s < axis.samples) & (at >= -1) & (at <= axis.cells)
    at = jnp.clip(at, 0, axis.cells - 1)
    first = jnp.clip(jnp.floor(at[:, 0]), 0, jnp.maximum(axis.cells - window, 0.0))
    hats = jnp.maximum(0.0, 1.0 - jnp.abs(at[..., None] - (first[:, None, None] + jnp.arange(window))))
    mean = jnp.where(live[..., None], hats, 0.0).sum(1) / jnp.maximum(axis.samples, 1.0)
    return first.astype(jnp.int32), mean


def _read(flat: Array, y: _Axis, x: _Axis, begin: Array, width: Array, window: int, size: int) -> Array:
    """One box, (size, size, C), of the cells that begin at `begin` in rows of `width`."""
    (top, rows), (left, columns) = _weights(y, window, size), _weights(x, window, size)
    # What lies beyond a map smaller than the window has the weight 0; its index only has to exist.
    down = jnp.minimum(top[:, None] + jnp.arange(window), y.cells.astype(jnp.int32) - 1)
    right = jnp.minimum(left[:, None] + jnp.arange(window), x.cells.astype(jnp.int32) - 1)
    index = begin + down[:, :, None, None] * width + right[None, None]
    cells = flat[index]
    if not jnp.issubdtype(cells.dtype, jnp.floating):  # bitmaps, which are large: no float of them all
        cells = cells.astype(jnp.float32)
    weights = rows[:, :, None, None] * columns[None, None]
    return (cells * weights[..., None].astype(cells.dtype)).sum((1, 3))


def cut_masks(masks: Array, boxes: Array, size: int) -> Array:
    """What lies of masks in boxes, on a grid: (N, h, w) and (N, 4) in their cells -> (N, size, size) float32.

    As `roi_align` reads a bitmap whose cells beyond `h` and `w` are all 0; but a bin that is longer than `SAMPLES`
    cells along an axis takes that many samples.
    """

    def means(start: Array, end: Array, cells: int) -> Array:
        """The weights of the cells for each bin along an axis, (N, size, cells)."""
        bin_ = (end - start)[:, None, None] / size
        count = jnp.clip(jnp.ceil(bin_), 1, SAMPLES)
        sample = jnp.arange(SAMPLES)
        at = start[:, None, None] + (jnp.arange(size)[:, None] + (sample + 0.5) / count) * bin_ - 0.5  # (N, size, S)
        hats = jnp.maximum(0.0, 1.0 - jnp.abs(at[..., None] - jnp.arange(cells)))
        return jnp.where((sample < count)[..., None], hats, 0.0).sum(2) / count

    down, right = means(boxes[:, 1], boxes[:, 3], masks.shape[1]), means(boxes[:, 0], boxes[:, 2], masks.shape[2])
    found: Array = jnp.einsum("nih,nhw,njw->nij", down, masks.astype(jnp.float32), right, precision="highest")
    return found


def paste_masks(masks: Array, boxes: Array, size: tuple[int, int]) -> Array:
    """Masks drawn into their boxes: (N, m, m) and (N, 4) -> (N, height, width), bilinear, 0 outside.

    Sampled at the pixels' centres, so that the rim fades over half a cell (Mask R-CNN's released code). Nothing is
    drawn into a box without width or height.
    """
    side = masks.shape[1]

    def hats(start: Array, end: Array, count: int) -> Array:
        length = jnp.where(end > start, end - start, 1.0)[:, None]
        at = (jnp.arange(count) + 0.5 - start[:, None]) / length * side - 0.5
        at = jnp.where((end > start)[:, None], at, -1.0)
        return jnp.maximum(0.0, 1.0 - jnp.abs(at[..., None] - jnp.arange(side)))

    down, right = hats(boxes[:, 1], boxes[:, 3], size[0]), hats(boxes[:, 0], boxes[:, 2], size[1])
    return jnp.einsum("nhi,nij,nwj->nhw", down, masks, right)
