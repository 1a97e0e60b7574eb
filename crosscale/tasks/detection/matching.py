"""Which objects and which anchors a detector learns from, whatever its losses."""

import jax
import jax.numpy as jnp

from crosscale.contracts import Array
from crosscale.layers.boxes import box_areas

STEP = 32  # a picture's own area is its size raised to multiples of it: anchors further out learn nothing


def learnable(boxes: Array, labels: Array, crowd: Array) -> jax.Array:
    """(...) bool: the objects that are learnt from: (..., 4) boxes with an area, no crowds, and none that fills up.

    A box without area would take every anchor.
    """
    return jnp.asarray((labels >= 0) & ~crowd & (box_areas(jnp.asarray(boxes)) > 0))


def in_picture(anchors: jax.Array, size: Array) -> jax.Array:
    """(N,) bool: the anchors whose centre lies in the picture's own area.

    Args:
      anchors: (N, 4).
      size: (2,) height and width of the image without what fills it up.
    """
    height, width = (jnp.ceil(side / STEP) * STEP for side in (size[0], size[1]))
    x, y = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    return (x < width - 0.5) & (y < height - 0.5)  # apart from rounding, centres lie on whole pixels
