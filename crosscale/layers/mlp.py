"""The transformer's two-layer perceptron and its exact GELU."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crosscale.contracts import Array
from crosscale.layers.dense import Dense


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Exact GELU, x * Phi(x) (Hendrycks & Gimpel, 2016), as PyTorch's default; no tanh approximation.

    Written with erf: XLA compiles it to faster code than the erfc form of `jax.nn.gelu`. The gradient needs `x` alone.
    """
    wide = x.astype(jnp.float32)
    y = wide * (0.5 * (1.0 + lax.erf(wide * math.sqrt(0.5))))
    # Zero it is there already. XLA:CPU hands no selection to its library: without one, that takes the whole perceptron
    # at once, with every constant written out at full size.
    return jnp.where(wide < -10.0, 0.0, y).astype(x.dtype)


def _gelu_gradient(x: Array, grad: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    # erf is odd. Its forward value, written alike, would be found here and kept from there, as large as x.
    cumulative = 0.5 * (1.0 - lax.erf(wide * -math.sqrt(0.5)))
    density = jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2.0 * math.pi)
    return ((grad * (cumulative + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)


class Mlp(nn.Module):
    """Dense -> GELU -> dropout -> Dense -> dropout on (..., C), hidden width `hidden_dim`, output width C."""

    hidden_dim: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        shape, dim = x.shape, x.shape[-1]
        # On maps XLA:CPU fuses the activation into a product of more dimensions, and holds its constants at full size.
        x = gelu(Dense(self.hidden_dim, dtype=self.dtype, name="expand")(x.reshape(-1, dim)))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        x = Dense(dim, dtype=self.dtype, name="contract")(x).reshape(shape)
        return nn.Dropout(self.drop_rate)(x, deterministic=not train)
