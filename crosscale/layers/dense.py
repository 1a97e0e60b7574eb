"""Linear and convolution layers with the initialisation of the reference models."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crosscale.contracts import Array


def trunc_normal(std: float = 0.02) -> nn.initializers.Initializer:
    """Normal of the given standard deviation, cut at +-2 (absolute, as torch's trunc_normal_ cuts by default)."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        bound = 2.0 / std
        return std * jax.random.truncated_normal(key, -bound, bound, tuple(shape), dtype)

    init.__name__ = f"trunc_normal({std})"
    return init


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in +-1/sqrt(fan_in): what torch gives a convolution's weights and bias by default."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    init.__name__ = f"uniform(+-{bound:.4f})"
    return init


def dense_params(module: nn.Module, in_features: int, features: int, use_bias: bool) -> tuple[Array, Array | None]:
    """The kernel (in, out) and bias (out,) of a linear layer, as parameters of `module`."""
    kernel = module.param("kernel", trunc_normal(), (in_features, features), jnp.float32)
    bias = module.param("bias", nn.initializers.zeros, (features,), jnp.float32) if use_bias else None
    return kernel, bias


class DenseParams(nn.Module):
    """The parameters of a linear layer without its product, for algebra that absorbs them elsewhere."""

    in_features: int
    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        kernel, bias = dense_params(self, self.in_features, self.features, self.use_bias)
        if self.dtype is not None:
            kernel, bias = nn.dtypes.promote_dtype(kernel, bias, dtype=self.dtype)
        return kernel, bias


class Dense(nn.Module):
    """y = x W + b over the last axis. Weights ~ truncated normal 0.02, bias 0.

    The tokens are flattened to (B * N, C) first, so that the weight gradient is one plain matmul.

    Attributes:
      features: output width.
      use_bias: whether b exists.
      dtype: compute type; parameters stay float32.
    """

    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel, bias = dense_params(self, x.shape[-1], self.features, self.use_bias)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x.reshape(-1, x.shape[-1]) @ kernel
        if bias is not None:
            y = y + bias
        return y.reshape(*x.shape[:-1], self.features)


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
        k, in_features = self.kernel_size, x.shape[-1] // self.groups
        init = torch_uniform(in_features * k * k)
        kernel = self.param("kernel", init, (k, k, in_features, self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.stride == k and self.padding == 0 and self.groups == 1:
            return _patch_matmul(x, kernel, k) + bias
        y = lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=((self.padding, self.padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y + bias


def _patch_matmul(x: Array, kernel: Array, k: int) -> Array:
    """A convolution whose windows do not overlap, as a reshape and one matmul (several times faster on XLA:CPU)."""
    batch, height, width, channels = x.shape
    rows, cols = height // k, width // k
    x = x[:, : rows * k, : cols * k].reshape(batch, rows, k, cols, k, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch * rows * cols, k * k * channels)
    return (x @ kernel.reshape(-1, kernel.shape[-1])).reshape(batch, rows, cols, -1)
