"""Stochastic depth (Huang et al., ECCV 2016): drop a residual branch per example."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array


class DropPath(nn.Module):
    """Zeroes the whole residual of an example with probability `rate`, scaling the kept ones by 1 / (1 - rate).

    Randomness comes from the "dropout" stream. Identity when `train` is false or `rate` is 0.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if not train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


def drop_path_schedule(rate: float, steps: int) -> tuple[float, ...]:
    """`steps` rates rising linearly from 0 to `rate` (both ends included)."""
    if steps < 2:
        return (0.0,) * steps
    return tuple(rate * i / (steps - 1) for i in range(steps))
