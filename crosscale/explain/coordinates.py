"""From a grid of patches or cells to the pixels that they cover."""

import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array
from crosscale.models.description import Placement


def place(values: Array, placement: Placement, size: tuple[int, int]) -> Array:
    """(B, rows, columns) -> (B, *size): every pixel has the value of the cell that covers its centre, or 0."""
    rows, columns = (
        _cell_of_pixel(side, start, cell, count)
        for side, start, cell, count in zip(size, placement.start, placement.cell, placement.grid, strict=True)
    )
    with_outside = jnp.pad(values, ((0, 0), (0, 1), (0, 1)))
    return with_outside[:, rows][:, :, columns]


def _cell_of_pixel(side: int, start: float, cell: float, count: int) -> np.ndarray:
    """(side,) index of the cell over each pixel's centre; `count` where there is none."""
    index = np.floor((np.arange(side) + 0.5 - start) / cell).astype(int)
    return np.where((index >= 0) & (index < count), index, count)
