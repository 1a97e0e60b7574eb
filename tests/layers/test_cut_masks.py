"""Masks read from cut-out cells: what RoIAlign reads of the whole picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.data.cut_masks import cut_out
from crosscale.layers.roi_align import cut_masks, roi_align

SIZE = (160, 200)


@pytest.mark.slow
@pytest.mark.parametrize("side", [112, 60])
def test_cells_give_what_the_picture_gives(side):
    """To the last cell where the masks fit, and but for one cell in a hundred where they are shrunk."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    bitmaps, boxes = np.zeros((16, *SIZE), bool), np.zeros((16, 4), np.float32)
    for i in range(16):
        high, wide = rng.integers(12, 110, 2)
        top, left = rng.integers(-12, SIZE[0] - high + 12), rng.integers(-12, SIZE[1] - wide + 12)
        up, right = (y - top - high / 2) / high, (x - left - wide / 2) / wide
        bitmaps[i] = np.hypot(up, right) < 0.375 + 0.125 * np.cos(rng.integers(2, 6) * np.arctan2(up, right))
        ys, xs = (np.flatnonzero(bitmaps[i].any(axis)) for axis in (1, 0))
        moved = rng.uniform(-0.15, 0.15, 4) * np.tile([wide, high], 2)
        boxes[i] = np.clip(moved + np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]), 0, [*SIZE[::-1]] * 2)
    picture = jnp.asarray(bitmaps[..., None], jnp.uint8)
    wanted = jax.jit(lambda b: roi_align([picture], b, jnp.arange(16), strides=[1], size=28)[..., 0] >= 0.5)(boxes)
    packed, frames = cut_out(bitmaps, side)
    sides = frames[:, [2, 3, 2, 3]] - frames[:, [0, 1, 0, 1]]
    placed = (boxes - frames[:, [0, 1, 0, 1]]) * np.minimum(sides, side) / sides
    cells = np.unpackbits(packed, axis=-1, count=side)
    found = jax.jit(lambda cells, placed: cut_masks(cells, placed, 28) >= 0.5)(cells, placed)
    assert (np.asarray(found) != wanted).mean() <= (0 if side == 112 else 0.01)
    assert 0.1 < np.mean(wanted) < 0.9
