"""A picture of any number of channels at full depth, as the transforms take it in place of a Pillow image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom

_FLIPS = {Image.Transpose.FLIP_LEFT_RIGHT: 1, Image.Transpose.FLIP_TOP_BOTTOM: 0}
_SHOWN = (2, 98)  # percentiles


@dataclass(frozen=True)
class Bands:
    """Has the part of Pillow's interface that the transforms use; Pillow resizes each channel with the same filters.

    Attributes:
      array: (H, W, C) float32, normalised, so that 0 is the mean.
    """

    array: np.ndarray

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    @property
    def height(self) -> int:
        return int(self.array.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow has them."""
        return self.width, self.height

    def resize(self, size: tuple[int, int], resample: Image.Resampling, box: Box | None = None) -> "Bands":
        """The picture, or a part of it, at another width and height."""
        planes = (Image.fromarray(np.ascontiguousarray(self.array[:, :, c])) for c in range(self.array.shape[2]))
        return Bands(np.stack([np.asarray(plane.resize(size, resample, box=box)) for plane in planes], axis=-1))

    def crop(self, box: tuple[int, int, int, int]) -> "Bands":
        """A part of it."""
        left, top, right, bottom = box
        return Bands(self.array[top:bottom, left:right])

    def transpose(self, method: Image.Transpose) -> "Bands":
        """Its mirror image, left-right or top-bottom."""
        return Bands(np.flip(self.array, _FLIPS[method]))

    def padded(self, width: int, height: int) -> "Bands":
        """In the middle of a picture of this size, with the mean around."""
        top, left = (height - self.height) // 2, (width - self.width) // 2
        whole = np.zeros((height, width, self.array.shape[2]), np.float32)
        whole[top : top + self.height, left : left + self.width] = self.array
        return Bands(whole)


def as_shown(picture: np.ndarray) -> np.ndarray:
    """A prepared picture (H, W, C) as people can look at it: uint8.

    Floating point, which has no white of its own, is stretched in each channel from its 2nd to its 98th percentile.
    """
    if picture.dtype == np.uint8:
        return picture
    low, high = np.percentile(picture, _SHOWN, axis=(0, 1))
    shown = (picture - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)
