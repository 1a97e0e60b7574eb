"""Linear layers with the initialisation of the reference models."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.initializers import trunc_normal
from crosscale.layers.kernels import dense, dense_parts


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
        return dense(x, kernel, bias)


class DenseParts(nn.Module):
    """`Dense`, cut into equal parts of its output: (..., C) -> `parts` of (..., features / parts)."""

    features: int
    parts: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        kernel, bias = dense_params(self, x.shape[-1], self.features, self.use_bias)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return dense_parts(x, kernel, bias, self.parts)
