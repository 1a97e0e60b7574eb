"""Convolutions with torch's conventions."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.initializers import torch_uniform
from crosscale.layers.kernels import strided_conv
from crosscale.layers.kernels.products import additional_macs


class Conv(nn.Module):
    """2-D convolution on NHWC with torch's conventions: symmetric integer padding and default initialisation.

    A kernel of one cell is a matrix product.

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel.
      stride: step in both directions.
      padding: zeros added on each of the four sides.
      groups: input and output channels are split into this many groups (channels for depthwise).
      dtype: compute type; parameters stay float32.
      use_bias: whether there is a bias.
      kernel_init: of the kernel; None is torch's default of kernel and bias.
      bias_init: of the bias where `kernel_init` is given; None starts it at zero.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dtype: Any = None
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, C) -> (B, rows, columns, features), rows = (H + 2 padding - kernel_size) // stride + 1."""
        k, in_features = self.kernel_size, x.shape[-1] // self.groups
        init = self.kernel_init or torch_uniform(in_features * k * k)
        kernel = self.param("kernel", init, (k, k, in_features, self.features), jnp.float32)
        bias = None
        if self.use_bias:
            bias_init = init if self.kernel_init is None else self.bias_init or nn.initializers.zeros
            bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y: Array = strided_conv(x, kernel, self.stride, self.padding, self.groups)
        return y if bias is None else y + bias

    def additional_macs(self, x: Array) -> int:
        """Multiply-accumulates on (B, H, W, C) beyond the convolution's own: products take whole cells."""
        return additional_macs(x, self.features, self.kernel_size, self.stride, self.padding, self.groups)
