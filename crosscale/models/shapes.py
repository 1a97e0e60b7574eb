"""The shapes of a model's variables, without computing any."""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from crosscale.contracts import Variables

P = ParamSpec("P")
R = TypeVar("R")


def remembered(most: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keeps the last `most` answers of a function of models; it asks again where a model has a list among its fields,
    by which nothing can be looked up."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        kept = lru_cache(maxsize=most)(function)

        @wraps(function)
        def answer(*args: P.args, **options: P.kwargs) -> R:
            try:
                hash((args, *options.values()))
            except TypeError:
                return function(*args, **options)
            return kept(*args, **options)  # type: ignore[arg-type]

        return answer

    return decorated


def variable_shapes(model: nn.Module, size: Sequence[int], channels: int) -> Variables:
    """What `model.init` gives for pictures of `size` (height, width), as `jax.ShapeDtypeStruct`s.

    Tracing a large model takes a second, and loading, counting and training each ask, so the last answers are kept.
    """
    shapes = _trace(model, tuple(size), channels)
    copy: Variables = jax.tree.map(lambda leaf: leaf, shapes)  # the caller may change its dicts
    return copy


@remembered(64)
def _trace(model: nn.Module, size: tuple[int, ...], channels: int) -> Any:
    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    return dict(jax.eval_shape(model.init, jax.random.key(0), images))
