"""Loss scaling, without which the small gradients of float16 would be zero (Micikevicius et al., 2018, section 3.2).

The scale is flax's `DynamicScale`: 65,536 at first, halved by a gradient that is not finite, doubled after 2,000 steps
without one. Here it takes in each part of a batch, and stays above a floor.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.training.dynamic_scale import DynamicScale

from crosscale.contracts import Array

# Below 1 a scale makes gradients smaller than they are: one that is still not finite has another reason.
LEAST = 1.0

Scale = DynamicScale | None  # None where nothing is scaled


def first_scale(dtype: str) -> Scale:
    """What a training in this type begins with; None for one whose gradients need no scaling."""
    if dtype != "float16":
        return None
    begun = DynamicScale(minimum_scale=LEAST)
    return begun.replace(fin_steps=jnp.int32(begun.fin_steps), scale=jnp.float32(begun.scale))


def value_and_grad(
    function: Callable[..., tuple[Array, Any]], scale: Scale, pictures: int
) -> Callable[..., tuple[Any, Any, Scale]]:
    """As `jax.value_and_grad` with `has_aux`: a function that returns (what came beside the loss, gradient, new scale).

    Args:
      function: (params, ...) -> (a loss summed over the pictures, anything).
      scale: of the mean over the pictures, so that it means the same for any size of a batch.
    """

    def mean(*args: Any) -> tuple[Array, Any]:
        loss, aux = function(*args)
        return loss / pictures, aux

    def differentiate(*args: Any) -> tuple[Any, Any, Scale]:
        if scale is None:
            (_, aux), grads = jax.value_and_grad(function, has_aux=True)(*args)
            return aux, grads, None
        found = scale.value_and_grad(mean, has_aux=True)(*args)
        return found.aux[1], jax.tree.map(lambda grad: grad * pictures, found.grad), found.dynamic_scale

    return differentiate


def lowest(parts: Scale) -> Scale:
    """The one scale for all parts of a batch, from their stacked new scales: each part began from the same scale."""
    return jax.tree.map(lambda values: values.min(0), parts)


def settled(old: Scale, new: Scale, loss: Array) -> tuple[Scale, dict[str, Array]]:
    """The scale for the next step, and what the step's report says where there is one: "scale", which this step was
    computed with, and "overflow", whether it was lowered for the next.

    A loss that is not finite is not the scale's doing, which comes after the loss: the scale stays.
    """
    if old is None or new is None:
        return None, {}
    kept: DynamicScale = jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(loss), a, b), new, old)
    said: dict[str, Any] = {"scale": old.scale, "overflow": kept.scale < old.scale}
    return kept, said
