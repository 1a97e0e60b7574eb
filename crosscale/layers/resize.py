"""PyTorch's bicubic resampling (a = -0.75, half-pixel centres, no antialias) as two constant matmuls.

`jax.image.resize(method="cubic")` is another kernel: a = -0.5, with antialias by default.
"""

from functools import lru_cache

import numpy as np

from crosscale.contracts import Array
from crosscale.layers.kernels import resample

_A = -0.75


@lru_cache(maxsize=64)
def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """(size_out, size_in) float32 matrix of the cubic convolution kernel, edge samples repeated."""
    centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((size_out, size_in))
    for tap in range(-1, 3):
        distance = np.abs(centre - (first + tap))
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        column = np.clip(first + tap, 0, size_in - 1)
        np.add.at(matrix, (np.arange(size_out), column), np.where(distance <= 1, near, far))
    return matrix.astype(np.float32)


def resize_bicubic(images: Array, size: tuple[int, int]) -> Array:
    """(B, H, W, C) -> (B, *size, C); the identity when the size is already right."""
    height, width = images.shape[1:3]
    if height != size[0]:
        images = resample(images, bicubic_matrix(height, size[0]), axis=1)
    if width != size[1]:
        images = resample(images, bicubic_matrix(width, size[1]), axis=2)
    return images


def center_crop(images: Array, size: tuple[int, int]) -> Array:
    """Cuts the centre `size` out of (B, H, W, C); offsets are rounded half to even, as Python's round."""
    top = round((images.shape[1] - size[0]) / 2)
    left = round((images.shape[2] - size[1]) / 2)
    return images[:, top : top + size[0], left : left + size[1]]
