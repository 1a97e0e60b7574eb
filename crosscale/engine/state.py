"""What training changes from step to step, as one tree."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crosscale.contracts import Variables, as_variables
from crosscale.engine.loss_scale import Scale

_LATER = ("batch_stats", "ema_batch_stats", "loss_scale")  # fields that the first checkpoints did not have


class TrainState(struct.PyTreeNode):
    """Everything that a checkpoint has to hold for the devices.

    There is no random state: each step's key comes from the seed and the step, so a resumed run repeats.

    Attributes:
      step: steps taken, int32 scalar; those that were left out count.
      params: the model's parameters, float32.
      opt_state: the optimizer's.
      ema_params: moving average of the parameters, or None.
      batch_stats: running means and variances of the model's batch norms, float32; None where it has none.
      ema_batch_stats: their moving average, or None.
      loss_scale: what the loss is multiplied by before it is differentiated, in float16 training; or None.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema_params: Any
    batch_stats: Any = None
    ema_batch_stats: Any = None
    loss_scale: Scale = None

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        ema: bool,
        batch_stats: Any = None,
        loss_scale: Scale = None,
    ) -> "TrainState":
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            # A copy: the step donates its input, and one buffer cannot be donated twice.
            ema_params=jax.tree.map(jnp.copy, params) if ema else None,
            batch_stats=batch_stats or None,
            ema_batch_stats=(jax.tree.map(jnp.copy, batch_stats) or None) if ema else None,
            loss_scale=loss_scale,
        )

    def stored(self) -> dict[str, Any]:
        """The fields by name, as checkpoints hold them.

        What belongs to batch norms or to float16 is left out where there is none: checkpoints older than these fields
        can be read.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None or name not in _LATER}

    def variables(self, *, averaged: bool = False) -> Variables:
        """What the model is applied with: the latest, or the moving averages where they are kept."""
        if averaged and self.ema_params is not None:
            return as_variables(self.ema_params, self.ema_batch_stats)
        return as_variables(self.params, self.batch_stats)


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """The key of all randomness of one step."""
    return jax.random.fold_in(jax.random.key(seed), step)
