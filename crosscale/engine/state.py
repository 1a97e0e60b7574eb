"""What training changes from step to step, as one tree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """Everything that a checkpoint has to hold for the devices.

    There is no random state: each step's key comes from the seed and the step, so a resumed run repeats.

    Attributes:
      step: steps taken, int32 scalar; those that were left out count.
      params: the model's parameters, float32.
      opt_state: the optimizer's.
      ema_params: moving average of the parameters, or None.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema_params: Any

    @classmethod
    def create(cls, params: Any, optimizer: optax.GradientTransformation, *, ema: bool) -> "TrainState":
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            # A copy: the step donates its input, and one buffer cannot be donated twice.
            ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        )


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """The key of all randomness of one step."""
    return jax.random.fold_in(jax.random.key(seed), step)
