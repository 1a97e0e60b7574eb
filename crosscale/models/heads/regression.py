"""Numbers in the data's own units from the pooled vectors."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.errors import RequestError
from crosscale.models.heads.linear import mean_of_linears


class RegressionHead(nn.Module):
    """One linear layer per pooled vector, averaged, then scaled to the data: y * std + mean, (B, outputs) float32.

    The linear layers see standardised numbers, which suits one learning rate to any unit, and start near 0, so that
    the model starts at the data's mean. The parameters are named as those of `MeanOfLinears`; `mean` and `std` are
    none of them.

    Attributes:
      outputs: how many numbers a picture has, 1 or more.
      mean: of each number over the training data, in its unit.
      std: its standard deviation there, in the same unit, above 0.
      dtype: compute type of the linear layers; the scaling is in float32.

    Raises:
      RequestError: at construction, for a count that does not fit or a statistic that cannot be one.
    """

    outputs: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise RequestError(f"outputs={self.outputs}: a picture has at least one number")
        for field in ("mean", "std"):
            values = tuple(getattr(self, field))
            if len(values) != self.outputs:
                raise RequestError(f"{field}={list(values)} has {len(values)} entries for outputs={self.outputs}")
            if not all(math.isfinite(value) for value in values):
                raise RequestError(f"{field}={list(values)}: every entry must be finite")
            setattr(self, field, values)
        if min(self.std) <= 0:
            raise RequestError(f"std={list(self.std)}: every entry must be above 0")
        super().__post_init__()

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Array:
        y = mean_of_linears(features, self.outputs, self.dtype).astype(jnp.float32)
        return y * jnp.asarray(self.std, jnp.float32) + jnp.asarray(self.mean, jnp.float32)
