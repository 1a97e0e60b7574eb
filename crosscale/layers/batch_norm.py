"""Batch normalisation with the references' conventions, over every device's part of the batch."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.errors import RequestError

BATCH_STATS = "batch_stats"  # the collection of the running statistics


class BatchNorm(nn.Module):
    """Normalisation of each channel over the batch (Ioffe and Szegedy, 2015), then a learnt scale and bias.

    Statistics are in float32. In training they are the batch's own: under `jit`, of the whole batch, however it is
    split over devices, which other projects call synchronised. Otherwise the running ones stand in, which training
    moves towards the batch's where the collection "batch_stats" is mutable: new = (1 - momentum) old + momentum batch.
    As in PyTorch the batch is normalised with its biased variance, and the running one takes the unbiased; Linen's
    takes the biased.

    Attributes:
      epsilon: added to the variance.
      momentum: the batch's share in the running statistics.
      dtype: of the output; None is what the input's type and float32 promote to.

    Raises:
      RequestError: in training, where a channel has a single value, whose variance is not defined.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(..., C) -> (..., C)."""
        channels = x.shape[-1:]
        running_mean = self.variable(BATCH_STATS, "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable(BATCH_STATS, "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        wide = jnp.asarray(x).astype(jnp.float32)
        mean: Any = running_mean.value
        var: Any = running_var.value
        if train:
            count = x.size // x.shape[-1]
            if count < 2 and not self.is_initializing():
                raise RequestError(
                    f"{'/'.join(self.path)}: batch normalisation of one value per channel has no variance; train with "
                    "two pictures or more in a batch, or with norm='group'"
                )
            mean, var = _moments(wide)
            if self.is_mutable_collection(BATCH_STATS) and not self.is_initializing():
                kept = 1 - self.momentum
                running_mean.value = kept * running_mean.value + self.momentum * mean
                running_var.value = kept * running_var.value + self.momentum * var * (count / (count - 1))
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        y = (wide - mean) * factor + bias
        return y.astype(self.dtype or jnp.result_type(x, scale))


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, in two passes."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return mean, jnp.square(x - mean).mean(axes)
