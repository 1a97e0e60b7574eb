"""Layer normalisation with the references' accuracy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crosscale.contracts import Array


class LayerNorm(nn.Module):
    """Normalisation over the last axis (Ba et al., 2016, eq. 4), then a learnt scale and bias.

    The variance takes two passes, as in PyTorch; E[x^2] - E[x]^2 loses digits where the mean is large. The gradient
    needs the input alone, and for each row its mean and deviation: nothing of the input's size is kept besides.

    Attributes:
      epsilon: added to the variance.
      dtype: of the output; None is what the input's type and float32 promote to. Computes in float32.
    """

    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., C) -> (..., C)."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _normalized(x, scale, bias, self.epsilon, self.dtype or jnp.result_type(x, scale))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalized(x: Array, scale: Array, bias: Array, epsilon: float, dtype: Any) -> Array:
    return _forward(x, scale, bias, epsilon, dtype)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float, dtype: Any) -> tuple[Array, Any]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    return ((wide - mean) * (inverse * scale) + bias).astype(dtype), (x, scale, bias, mean, inverse)


def _backward(epsilon: float, dtype: Any, kept: Any, grad: Array) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, inverse = kept
    grad, rows = grad.astype(jnp.float32), tuple(range(x.ndim - 1))
    whitened = (x.astype(jnp.float32) - mean) * inverse
    scaled = grad * scale
    along = (scaled * whitened).mean(-1, keepdims=True)
    to_x = inverse * (scaled - scaled.mean(-1, keepdims=True) - whitened * along)
    return (
        to_x.astype(x.dtype),
        (grad * whitened).sum(rows).astype(scale.dtype),
        grad.sum(rows).astype(bias.dtype),
    )


_normalized.defvjp(_forward, _backward)
