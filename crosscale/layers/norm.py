"""Layer normalisation with the references' accuracy."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.kernels import layer_norm


class LayerNorm(nn.Module):
    """Normalisation over the last axis (Ba et al., 2016, eq. 4), then a learnt scale and bias.

    The variance takes two passes, as in PyTorch. On a processor the gradient needs the input alone, and for each row
    its mean and deviation: nothing else of the input's size is kept.

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
        return layer_norm(x, scale, bias, self.epsilon, self.dtype or jnp.result_type(x, scale))
