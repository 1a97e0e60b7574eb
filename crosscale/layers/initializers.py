"""How parameters start: the initialisation of the reference models.

Each function gives an initialiser (key, shape, dtype) -> array, named as listings show it. A module that holds one
compares equal only to a module that holds the same object, so share them.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.draws import drawn

Initializer = nn.initializers.Initializer


def named(init: Any, name: str) -> Initializer:
    """The same under a name by which listings show it."""
    init.__name__ = name
    initializer: Initializer = init
    return initializer


def trunc_normal(std: float = 0.02) -> Initializer:
    """Normal of the given standard deviation, cut at +-2 (absolute, as torch's trunc_normal_ cuts by default)."""
    bound = 2.0 / std

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return std * drawn(shape, lambda flat: jax.random.truncated_normal(key, -bound, bound, flat, dtype))

    return named(init, f"trunc_normal({std})")


def torch_uniform(fan_in: int) -> Initializer:
    """Uniform in +-1/sqrt(fan_in): what torch gives a convolution's weights and bias by default."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return drawn(shape, lambda flat: jax.random.uniform(key, flat, dtype, -bound, bound))

    return named(init, f"uniform(+-{bound:.4f})")


def normal(std: float) -> Initializer:
    """Normal of the given standard deviation."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return std * drawn(shape, lambda flat: jax.random.normal(key, flat, dtype))

    return named(init, f"normal({std})")


def he_normal() -> Initializer:
    """Normal of variance 2 / fan_out (He et al., 2015); kernels are (..., in, out)."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        std = jnp.sqrt(jnp.array(2.0 / (math.prod(shape) / shape[-2]), dtype))
        return std * drawn(shape, lambda flat: jax.random.normal(key, flat, dtype))

    return named(init, "he_normal(fan_out)")


def xavier_uniform() -> Initializer:
    """Uniform of variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010); kernels are (..., in, out)."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        fans = math.prod(shape) / shape[-2] + math.prod(shape) / shape[-1]
        bound = jnp.sqrt(3 * jnp.array(2.0 / fans, dtype))
        return bound * drawn(shape, lambda flat: jax.random.uniform(key, flat, dtype, -1))

    return named(init, "xavier_uniform")


HE_NORMAL = he_normal()
XAVIER_UNIFORM = xavier_uniform()
