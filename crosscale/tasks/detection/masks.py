"""Masks that a detector gives over its boxes, as pixels of the picture and as COCO has them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from crosscale.data.coco_masks import compressed

THRESHOLD = 0.5  # from which a pixel belongs to the object


def drawn_mask(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: where the mask is one half or more, as `layers.roi_align.paste_masks` draws it.

    Args:
      mask: (m, m) probabilities on a grid over the box.
      box: x0 y0 x1 y1 in pixels of a picture of `size`.
      size: height and width.
    """
    found = np.zeros(size, bool)
    part, (top, left) = _drawn_part(mask, box, size)
    found[top : top + part.shape[0], left : left + part.shape[1]] = part
    return found


def _drawn_part(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels that the box touches, and the first one's row and column."""
    x0, y0, x1, y1 = (float(value) for value in box)
    rows, columns = _pixels(y0, y1, size[0]), _pixels(x0, x1, size[1])
    if not (x1 > x0 and y1 > y0 and rows.size and columns.size):
        return np.zeros((0, 0), bool), (0, 0)
    down, right = _weights(rows, y0, y1, len(mask)), _weights(columns, x0, x1, len(mask))
    part: np.ndarray = down @ mask.astype(np.float32) @ right.T >= THRESHOLD
    return part, (int(rows[0]), int(columns[0]))


def _pixels(start: float, end: float, count: int) -> np.ndarray:
    """Those that the box touches: half a cell beyond it no mask reaches one half."""
    return np.arange(max(0, math.floor(start)), min(count, math.ceil(end)))


def _weights(pixels: np.ndarray, start: float, end: float, side: int) -> np.ndarray:
    """(pixels, side): each pixel's shares of the two cells in a line between which its centre lies."""
    at = (pixels + 0.5 - start) / (end - start) * side - 0.5
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(side))).astype(np.float32)


def coco_masks(masks: Iterable[np.ndarray], boxes: Iterable[np.ndarray], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Each mask as COCO's compressed run lengths, {"size": [height, width], "counts": text}; see `drawn_mask`.

    Raises RequestError where faster-coco-eval is not installed.
    """
    found = []
    for mask, box in zip(masks, boxes, strict=True):
        part, corner = _drawn_part(mask, box, size)
        found.append(compressed(part, size, corner))
    return found
