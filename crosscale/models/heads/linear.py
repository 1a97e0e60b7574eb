"""Linear layers on the pooled vectors, averaged: the classifier of every family, and what other heads start from."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.dense import Dense


def mean_of_linears(features: Features, width: int, dtype: Any) -> Array:
    """One linear layer "branch_b" per pooled vector, averaged: (B, width). To be called in a compact method."""
    outputs: list[Any] = [
        Dense(width, dtype=dtype, name=f"branch_{b}")(vector) for b, vector in enumerate(features.pooled)
    ]
    mean: Array = sum(outputs) / len(outputs)
    return mean


class MeanOfLinears(nn.Module):
    """One linear classifier per pooled vector, their logits averaged (CrossViT, section 3.1).

    With one pooled vector it is the usual linear head. With `num_classes=0` it returns the pooled
    vectors concatenated, (B, sum of widths).
    """

    num_classes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Array:
        if self.num_classes == 0:
            return jnp.concatenate(features.pooled, axis=-1)
        return mean_of_linears(features, self.num_classes, self.dtype)
