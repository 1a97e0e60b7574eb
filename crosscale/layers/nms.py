"""Non-maximum suppression of fixed shapes: exactly the greedy one, two ways.

A box is suppressed by a better one of its own label that overlaps it by more than the threshold (equal is kept, as in
the released detectors). Boxes without area suppress nothing. Equal scores: the lower index goes first.
"""

import jax
import jax.numpy as jnp
from jax import lax

from crosscale.layers.boxes import box_areas, intersections

Array = jax.Array


def _suppresses(a: Array, b: Array, threshold: float) -> Array:
    """Whether the boxes overlap by more than the threshold; 0 / 0, for two without area, does not."""
    common = intersections(a, b)
    return common / (box_areas(a) + box_areas(b) - common) > threshold


def nms(
    boxes: Array, scores: Array, threshold: float, *, labels: Array | None = None, valid: Array | None = None
) -> Array:
    """Which boxes remain: takes N^2 memory, and a few rounds however many remain.

    Every round asks of all boxes at once whether a box that has remained suppresses them. The best is right after the
    first, the next after the second at the latest, and so on: what a round leaves unchanged is the greedy answer.

    Args:
      boxes: (N, 4).
      scores: (N,).
      threshold: of the IoU.
      labels: (N,), boxes of different ones leave each other alone; one label when None.
      valid: (N,) bool, the others are out from the start; all when None.

    Returns:
      (N,) bool, in the order given.
    """
    valid = jnp.ones(len(boxes), bool) if valid is None else valid
    order = jnp.argsort(-jnp.where(valid, scores, -jnp.inf), stable=True)
    sorted_boxes, sorted_valid = boxes[order], valid[order]
    out = _suppresses(sorted_boxes[:, None], sorted_boxes[None], threshold)
    if labels is not None:
        out &= labels[order][:, None] == labels[order][None]
    places = jnp.arange(len(boxes))
    out &= (places[:, None] < places[None]) & sorted_valid[:, None]

    def round_(state: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = state
        new = sorted_valid & ~(out & kept[:, None]).any(0)
        return new, (new != kept).any()

    kept, _ = lax.while_loop(lambda state: state[1], round_, (sorted_valid, jnp.array(True)))
    return kept[jnp.argsort(order)]


def best_nms(
    boxes: Array,
    scores: Array,
    threshold: float,
    count: int,
    *,
    labels: Array | None = None,
    valid: Array | None = None,
) -> tuple[Array, Array]:
    """The `count` best boxes that remain: takes memory in N alone, and one step for each that is wanted.

    Args:
      boxes, scores, threshold, labels, valid: see `nms`.
      count: how many.

    Returns:
      (count,) indices, the best first, and (count,) bool, those that are real; the others' index is 0.
    """
    areas = box_areas(boxes)

    def step(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = left.argmax()
        real = left[best] > -jnp.inf
        common = intersections(boxes[best], boxes)
        out = common / (areas[best] + areas - common) > threshold
        if labels is not None:
            out &= labels == labels[best]
        return jnp.where(out, -jnp.inf, left).at[best].set(-jnp.inf), (jnp.where(real, best, 0), real)

    left = scores if valid is None else jnp.where(valid, scores, -jnp.inf)
    _, found = lax.scan(step, left.astype(jnp.float32), None, length=count)
    return found
