"""What a learnt position table covers, so that it can be resized for another image size."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PositionTable:
    """A parameter of shape (1, has_cls + rows * columns, C).

    Attributes:
      grid: rows and columns of patches, in row order.
      has_cls: whether the CLS token's row comes first.
    """

    grid: tuple[int, int]
    has_cls: bool = True
