"""Masks of objects as a batch holds them: each cut out of its picture, and all of one size."""

import math

import numpy as np
from PIL import Image

SIDE = 112  # cells of a mask's longer side at most, four of each that a mask head of 28 x 28 learns


def cut_out(bitmaps: np.ndarray, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Each mask's own part of its picture, in the upper left of `side` x `side` cells.

    A cell is a pixel where the mask fits; along an axis that is longer than `side` it is several pixels, and belongs to
    the object where half of them do. Around the mask lies a rim of a cell or more: background, or beyond the picture's
    edge what lies at the edge, so that whoever samples the cells reads what sampling the picture gives.

    Args:
      bitmaps: (N, height, width) bool.
      side: 4 or more.

    Returns:
      (N, side, ceil(side / 8)) uint8, the cells packed along their rows, and (N, 4) float32, x0 y0 x1 y1 in pixels of
      the picture, what they show: of an axis of n pixels the first min(n, side) cells. Zeros for a mask without pixels.
    """
    cells = np.zeros((len(bitmaps), side, side), bool)
    frames = np.zeros((len(bitmaps), 4), np.float32)
    for number, bitmap in enumerate(bitmaps):
        ys, xs = (np.flatnonzero(bitmap.any(axis)) for axis in (1, 0))
        if not ys.size:
            continue
        rows, columns = (_rimmed(int(at[0]), int(at[-1]) + 1, side) for at in (ys, xs))
        part = bitmap.take(rows, 0, mode="clip").take(columns, 1, mode="clip")
        shape = min(len(rows), side), min(len(columns), side)
        if shape != part.shape:
            shrunk = Image.fromarray(part.astype(np.uint8) * 255).resize(shape[::-1], Image.Resampling.BOX)
            part = np.asarray(shrunk) >= 128
        cells[number, : shape[0], : shape[1]] = part
        frames[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return np.packbits(cells, axis=-1), frames


def packed_width(side: int = SIDE) -> int:
    """Bytes of a row of cells."""
    return math.ceil(side / 8)


def _rimmed(start: int, end: int, side: int) -> np.ndarray:
    """Positions from `start` to `end`, and as many before and behind as a cell is long."""
    rim = math.ceil((end - start) / (side - 2))
    return np.arange(start - rim, end + rim)
