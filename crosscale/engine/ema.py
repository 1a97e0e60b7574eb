"""The exponential moving average of the parameters, and of batch norms' statistics with them."""

from typing import Any

import jax
import jax.numpy as jnp

from crosscale.contracts import Array


def update_ema(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """One step of the average.

    The decay starts low, min(decay, (1 + step) / (10 + step)), so that the random initial weights are
    forgotten early in a short run.

    Args:
      ema: tree of averages, as `params`, which may be any tree of arrays.
      step: steps taken before this one.
      decay: the rate that is reached, in (0, 1).
    """
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)
    return jax.tree.map(lambda average, new: average + (1.0 - rate) * (new - average), ema, params)
