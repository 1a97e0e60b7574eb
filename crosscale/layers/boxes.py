"""Boxes: overlaps, coding against anchors, which ground truth an anchor is matched to, which of them are learnt from.

A box is (x0, y0, x1, y1) in pixels, x to the right, y down; its width is x1 - x0. Shapes are fixed, so that all of it
runs under `jit` and `vmap`: sets that may be smaller are filled up, and a mask says which rows are real.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

# A width or height is never scaled by more than this, up or down, in one step (Faster R-CNN's code, 1000 / 16).
LARGEST_SCALING = math.log(1000 / 16)


def box_areas(boxes: Array) -> Array:
    """(..., 4) -> (...): square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersections(a: Array, b: Array) -> Array:
    """Areas that boxes have in common: (..., 4) and (..., 4), broadcast, -> (...)."""
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    sides = jnp.maximum(sides, 0.0)
    return sides[..., 0] * sides[..., 1]


def box_iou(a: Array, b: Array) -> Array:
    """Intersection over union of every pair, 0..1: (G, 4) and (N, 4) -> (G, N). It is 0 for two boxes without area."""
    common = intersections(a[:, None], b[None])
    union = box_areas(a)[:, None] + box_areas(b)[None] - common
    return common / jnp.maximum(union, 1e-6)


def generalized_box_iou(a: Array, b: Array) -> Array:
    """Generalised IoU of each pair of equal place, -1..1: (..., 4) and (..., 4) -> (...).

    Rezatofighi et al., CVPR 2019, algorithm 1; boxes without area count as ones of 1e-6.
    """
    common = intersections(a, b)
    union = jnp.maximum(box_areas(a) + box_areas(b) - common, 1e-6)
    around = jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1)
    whole = jnp.maximum(box_areas(around), 1e-6)
    return common / union - (whole - union) / whole


def _centres(boxes: Array) -> tuple[Array, Array]:
    """Centres and sides, (..., 2) each, as x, y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode_boxes(boxes: Array, anchors: Array, std: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Array:
    """What a head learns: (..., 4) boxes and anchors -> (..., 4) of dx, dy, dw, dh, each divided by its `std`.

    dx = (x - x_a) / w_a, dw = log(w / w_a) of centres and sides (Faster R-CNN, equation 2). Sides must be above 0.
    """
    (centre, side), (anchor_centre, anchor_side) = _centres(boxes), _centres(anchors)
    deltas = jnp.concatenate([(centre - anchor_centre) / anchor_side, jnp.log(side / anchor_side)], -1)
    return deltas / jnp.asarray(std, deltas.dtype)


def decode_boxes(
    deltas: Array, anchors: Array, std: Sequence[float] = (1.0, 1.0, 1.0, 1.0), size: Array | None = None
) -> Array:
    """The boxes that (..., 4) deltas mean; dw and dh are cut at `LARGEST_SCALING`.

    Args:
      deltas: as `encode_boxes` gives them.
      anchors: (..., 4).
      std: see `encode_boxes`.
      size: (height, width) to which the boxes are clipped: that of the picture without its padding. None: not clipped.
    """
    deltas = deltas * jnp.asarray(std, deltas.dtype)
    centre, side = _centres(anchors)
    moved = centre + deltas[..., :2] * side
    scaled = side * jnp.exp(jnp.clip(deltas[..., 2:], -LARGEST_SCALING, LARGEST_SCALING))
    boxes = jnp.concatenate([moved - scaled / 2, moved + scaled / 2], -1)
    return boxes if size is None else clip_boxes(boxes, size)


def clip_boxes(boxes: Array, size: Array) -> Array:
    """(..., 4) cut to a picture of `size`, (height, width)."""
    height, width = size[0], size[1]
    return jnp.clip(boxes, 0, jnp.stack([width, height, width, height]).astype(boxes.dtype))


def base_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float]) -> Array:
    """The anchors of the cell at (0, 0): (ratios x scales, 4), all scales of a ratio together.

    One has the area (stride * scale)^2 and the height `ratio` times its width; neither rounded nor clipped.
    """
    sides = [
        (stride * scale / math.sqrt(ratio), stride * scale * math.sqrt(ratio)) for ratio in ratios for scale in scales
    ]
    return jnp.asarray([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides], jnp.float32)


def grid_anchors(cells: tuple[int, int], stride: int, base: Array) -> Array:
    """Anchors of a map of (rows, columns) cells: (rows * columns * A, 4), those of a cell together.

    The centre of cell (x, y) is (x * stride, y * stride), its corner, as in the released detectors.
    """
    rows, columns = (jnp.arange(count, dtype=jnp.float32) * stride for count in cells)
    y, x = jnp.meshgrid(rows, columns, indexing="ij")
    corners = jnp.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (corners + base).reshape(-1, 4)


def match_boxes(
    overlaps: Array,
    real: Array,
    *,
    positive: float,
    negative: float,
    lowest: float,
    low_quality: bool = True,
    candidates: Array | None = None,
) -> Array:
    """Which ground truth each candidate is matched to, by the largest overlap (Faster R-CNN, section 3.1.2).

    Args:
      overlaps: (G, N) IoU of ground truths with candidates; a negative one marks a candidate that counts for nothing.
      real: (G,) bool; the other ground truths fill up.
      positive: from this overlap on a candidate is matched.
      negative: below it is background.
      lowest: a ground truth takes its best candidates, below `positive` too, if they overlap by as much.
      low_quality: whether it does; where several ground truths take one candidate, the last has it.
      candidates: (N,) bool, those that take part; all when None.

    Returns:
      (N,) int: -1 counts for nothing, 0 is background, k + 1 is ground truth k. Without a real one all are background.
    """
    taken = real[:, None] if candidates is None else real[:, None] & candidates[None]
    overlaps = jnp.where(taken, overlaps, -1.0)
    best, which = overlaps.max(0), overlaps.argmax(0)
    matched = jnp.where((best >= 0) & (best < negative), 0, -1)
    matched = jnp.where(best >= positive, which + 1, matched)
    if low_quality:
        largest = overlaps.max(1, keepdims=True)
        ties = (overlaps == largest) & (largest >= lowest) & taken
        last = jnp.where(ties, jnp.arange(1, len(overlaps) + 1)[:, None], 0).max(0)
        matched = jnp.where(last > 0, last, matched)
    alone = jnp.where(True if candidates is None else candidates, 0, -1)
    return jnp.where(real.any(), matched, alone)


def sample_boxes(key: Array, matched: Array, count: int, positive_share: float) -> tuple[Array, Array]:
    """A random choice of candidates with at most `positive_share` positive ones; background fills up.

    Args:
      key: of the choice.
      matched: (N,), see `match_boxes`.
      count: how many.
      positive_share: 0..1; its product with `count` is rounded down.

    Returns:
      (count,) indices, positives first, and (count,) bool, those that are real: fewer where there are fewer.
    """
    most = int(count * positive_share)
    draws = jax.random.uniform(key, matched.shape)

    def chosen(wanted: Array, limit: int) -> tuple[Array, Array]:
        ranks, indices = jax.lax.top_k(jnp.where(wanted, draws, -1.0), min(limit, len(matched)))
        return indices, ranks >= 0

    positives, real_positives = chosen(matched > 0, most)
    others, real_others = chosen(matched == 0, count)
    real_others &= jnp.arange(len(others)) < count - real_positives.sum()
    indices, real = jnp.concatenate([positives, others]), jnp.concatenate([real_positives, real_others])
    order = jnp.argsort(~real, stable=True)[:count]
    missing = count - len(order)
    return jnp.pad(indices[order], (0, missing)), jnp.pad(real[order], (0, missing))
