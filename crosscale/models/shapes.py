"""The shapes of a model's variables, without computing any."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crosscale.contracts import Variables


def variable_shapes(model: nn.Module, size: Sequence[int], channels: int) -> Variables:
    """What `model.init` gives for pictures of `size` (height, width), as `jax.ShapeDtypeStruct`s.

    Tracing a large model takes a second, and loading, counting and training each ask, so the last answers are kept.
    """
    try:
        shapes = _remembered(model, tuple(size), channels)
    except TypeError:  # a model with a list among its fields cannot be looked up
        return _trace(model, tuple(size), channels)
    copy: Variables = jax.tree.map(lambda leaf: leaf, shapes)  # the caller may change its dicts
    return copy


def _trace(model: nn.Module, size: tuple[int, ...], channels: int) -> Any:
    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    return dict(jax.eval_shape(model.init, jax.random.key(0), images))


_remembered = lru_cache(maxsize=64)(_trace)
