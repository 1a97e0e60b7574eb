"""Convolutions with torch's conventions; on a processor, strided ones as matrix products."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crosscale.contracts import Array
from crosscale.layers.dense import torch_uniform

# A side that is no multiple of the stride is filled up with zeros to the next one. The products still win with this
# many times the taps: sides of 7 at stride 4 have 1.31 times as many, and sides of 3 at stride 2, which lose, 1.78.
MOST_TAPS = 1.4


class Conv(nn.Module):
    """2-D convolution on NHWC with torch's conventions: symmetric integer padding and default initialisation.

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel.
      stride: step in both directions.
      padding: zeros added on each of the four sides.
      groups: input and output channels are split into this many groups (channels for depthwise).
      dtype: compute type; parameters stay float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, C) -> (B, rows, columns, features), rows = (H + 2 padding - kernel_size) // stride + 1."""
        k, in_features = self.kernel_size, x.shape[-1] // self.groups
        init = torch_uniform(in_features * k * k)
        kernel = self.param("kernel", init, (k, k, in_features, self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self._as_products(x):
            return strided_products(x, kernel, self.stride, self.padding) + bias
        return convolution(x, kernel, self.stride, self.padding, self.groups) + bias

    def additional_macs(self, x: Array) -> int:
        """Multiply-accumulates on (B, H, W, C) beyond the convolution's own: products take whole cells."""
        if not self._as_products(x):
            return 0
        batch, height, width, channels = x.shape
        rows, columns = output_size((height, width), self.kernel_size, self.stride, self.padding)
        n = math.ceil(self.kernel_size / self.stride)
        seen = rows + n - 1, columns + (0 if _side_by_side(n, self.stride, channels, self.features) else n - 1)
        own = math.prod((rows, columns)) * self.kernel_size**2
        return batch * channels * self.features * (math.prod(seen) * (n * self.stride) ** 2 - own)

    def _as_products(self, x: Array) -> bool:
        if self.groups > 1:
            return False
        if self.kernel_size == self.stride and self.padding == 0:
            return True
        sizes_known = all(isinstance(size, int) for size in x.shape[1:3])
        taps = (math.ceil(self.kernel_size / self.stride) * self.stride / self.kernel_size) ** 2
        return jax.default_backend() == "cpu" and sizes_known and self.stride > 1 and taps < MOST_TAPS


def output_size(size: tuple[Any, Any], kernel_size: int, stride: int, padding: int) -> tuple[Any, Any]:
    """Rows and columns of a convolution's result."""
    rows, columns = ((side + 2 * padding - kernel_size) // stride + 1 for side in size)
    return rows, columns


def convolution(x: Array, kernel: Array, stride: int, padding: int, groups: int = 1) -> Array:
    """(B, H, W, C) with a kernel (k, k, C / groups, F) -> (B, rows, columns, F)."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def strided_products(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """`convolution` as one matrix product over cells of stride x stride pixels.

    On a processor several times as fast as XLA's own where channels are few, and in the gradients. A window spans n
    cells in each direction. Each row of cells is multiplied with all n rows of the kernel, whose results are then
    added where they belong. The n columns either lie side by side in what is multiplied, or are added like the rows,
    whichever takes less memory.

    Args:
      x: (B, H, W, C).
      kernel: (k, k, C, F).
      stride: step in both directions.
      padding: zeros added on each of the four sides.

    Returns:
      (B, rows, columns, F); sums are float32 whatever the inputs' type.
    """
    k, _, channels, features = kernel.shape
    n = math.ceil(k / stride)
    rows, columns = output_size((x.shape[1], x.shape[2]), k, stride, padding)
    cells = _cells(x, rows + n - 1, columns + n - 1, stride, padding)
    missing = n * stride - k
    kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
    kernel = kernel.reshape(n, stride, n, stride, channels, features)
    if _side_by_side(n, stride, channels, features):
        cells = jnp.concatenate([cells[:, :, j : j + columns] for j in range(n)], axis=-1)
        matrix = kernel.transpose(2, 1, 3, 4, 0, 5).reshape(-1, n * features)
        parts = _product(cells, matrix, n, 1, features)
    else:
        matrix = kernel.transpose(1, 3, 4, 0, 2, 5).reshape(-1, n * n * features)
        parts = _product(cells, matrix, n, n, features)
    shifted = [
        parts[:, i : i + rows, j : j + columns, i, j] for i in range(parts.shape[3]) for j in range(parts.shape[4])
    ]
    return sum(shifted[1:], shifted[0]).astype(x.dtype)


def _side_by_side(n: int, stride: int, channels: int, features: int) -> bool:
    return stride * stride * channels <= n * features


def _cells(x: Array, rows: Any, columns: Any, side: int, padding: int) -> Array:
    """(B, H, W, C) -> (B, rows, columns, side * side * C), with `padding` zeros at the top and the left."""
    batch, _, _, channels = x.shape
    x = x[:, : rows * side - padding, : columns * side - padding]
    below, right = rows * side - padding - x.shape[1], columns * side - padding - x.shape[2]
    if any(amount != 0 for amount in (padding, below, right)):
        x = jnp.pad(x, ((0, 0), (padding, below), (padding, right), (0, 0)))
    x = x.reshape(batch, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, side * side * channels)


def _product(cells: Array, matrix: Array, *split: int) -> Array:
    flat = jnp.matmul(cells.reshape(-1, cells.shape[-1]), matrix, preferred_element_type=jnp.float32)
    return flat.reshape(*cells.shape[:3], *split)
