"""The transformer's two-layer perceptron and its exact GELU."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crosscale.contracts import Array
from crosscale.layers.dense import Dense


def gelu(x: Array) -> Array:
    """Exact GELU, x * Phi(x) (Hendrycks & Gimpel, 2016), as PyTorch's default; no tanh approximation.

    Written with erf: XLA compiles it to faster code than the erfc form of `jax.nn.gelu`.
    """
    return x * (0.5 * (1.0 + lax.erf(x * jnp.asarray(1.0 / math.sqrt(2.0), x.dtype))))


class Mlp(nn.Module):
    """Dense -> GELU -> dropout -> Dense -> dropout on (..., C), hidden width `hidden_dim`, output width C."""

    hidden_dim: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = gelu(Dense(self.hidden_dim, dtype=self.dtype, name="expand")(x))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        x = Dense(dim, dtype=self.dtype, name="contract")(x)
        return nn.Dropout(self.drop_rate)(x, deterministic=not train)
