"""From a grid of patches or cells to the pixels that they cover."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array


@dataclass(frozen=True)
class Map:
    """One kind of attention map that a model has.

    Attributes:
      name: the key under which `attention` returns it.
      kind: whose attention it shows, for a heading.
      scale: over which patches, for a heading.
      cells: patches or cells of the whole grid; even attention gives each of them 1 / cells.
    """

    name: str
    kind: str
    scale: str
    cells: int


@dataclass(frozen=True)
class Placement:
    """Where a grid lies in a picture.

    Attributes:
      grid: rows and columns of the grid.
      start: the pixel (y, x) at which its first cell begins.
      cell: height and width of a cell in pixels, not necessarily whole.
    """

    grid: tuple[int, int]
    start: tuple[float, float]
    cell: tuple[float, float]


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
