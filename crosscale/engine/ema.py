"""The exponential moving average of the parameters, and of batch norms' statistics with them."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from crosscale.contracts import Array

Ramp: TypeAlias = Literal["ratio", "exponential", "none"]
TEMPERATURE = 2000.0  # steps, of the exponential ramp, as MindCV has it


def update_ema(ema: Any, params: Any, step: Array, decay: float, ramp: Ramp = "ratio") -> Any:
    """One step of the average.

    With a ramp the decay starts low, so that the random initial weights are forgotten early in a short run: "ratio" is
    min(decay, (1 + step) / (10 + step)), as TensorFlow's average has it, "exponential" is
    decay (1 - exp(-(1 + step) / 2000)), as MindCV's; "none" keeps `decay` from the first step, as timm does.

    Args:
      ema: tree of averages, as `params`, which may be any tree of arrays.
      step: steps taken before this one.
      decay: the rate that is reached, in (0, 1).
    """
    match ramp:
        case "ratio":
            rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)
        case "exponential":
            rate = jnp.float32(decay) * -jnp.expm1(-(1.0 + step) / TEMPERATURE)
        case "none":
            rate = jnp.float32(decay)
    return jax.tree.map(lambda average, new: average + (1.0 - rate) * (new - average), ema, params)
