"""GELU and layer normalisation, each with a gradient written out and with the one that JAX derives.

Written out, a gradient keeps the input and nothing else of its size. XLA:CPU would keep more of it; other backends'
compilers choose for themselves what to compute again, and get the formula.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from crosscale.contracts import Array
from crosscale.layers.kernels.choice import asked, by_platform, gradient_form
from crosscale.layers.kernels.manual import varying_alike


def gelu(x: Array) -> Array:
    """Exact GELU, x * Phi(x) (Hendrycks & Gimpel, 2016), as PyTorch's default; no tanh approximation.

    Computes in float32 and gives the input's type.
    """
    form = asked().gelu

    def run(form: str, x: Array) -> Array:
        return _gelu(x) if form == "written" else _gelu_formula(x)

    return by_platform(lambda platform: form or gradient_form(platform), run, x)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float, dtype: Any) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, computed in float32.

    Args:
      x: (..., C).
      scale: (C,) float32.
      bias: (C,) float32.
      epsilon: added to the variance.
      dtype: of the result.
    """
    form = asked().layer_norm

    def run(form: str, x: Array, scale: Array, bias: Array) -> Array:
        if form == "written":
            return _normalized(*varying_alike(x, scale, bias), epsilon, dtype)
        return _norm_forward(x, scale, bias, epsilon, dtype)[0]

    return by_platform(lambda platform: form or gradient_form(platform), run, x, scale, bias)


def squared_norms(arrays: Sequence[Array]) -> Array:
    """The sum of the squares of each array, in float32: (number of arrays,)."""
    form = asked().squares

    def run(form: str, *arrays: Array) -> Array:
        if form == "each":
            return jnp.stack([jnp.vdot(x, x, precision="highest") for x in arrays])
        # On a GPU a sum takes two kernels, however small it is: one pair for all arrays of one shape.
        places: dict[tuple[int, ...], list[int]] = {}
        for place, x in enumerate(arrays):
            places.setdefault(x.shape, []).append(place)
        stacked = [jnp.stack([arrays[place].reshape(-1) for place in same]) for same in places.values()]
        sums = jnp.concatenate([jnp.square(x).sum(-1) for x in stacked])
        order = [place for same in places.values() for place in same]
        return sums[np.argsort(order)]

    squares: Array = by_platform(lambda platform: form or ("stacked" if platform == "gpu" else "each"), run, *arrays)
    return squares


def _gelu_formula(x: Array) -> Array:
    """Written with erf: XLA compiles it to faster code than the erfc form of `jax.nn.gelu`."""
    wide = x.astype(jnp.float32)
    return (wide * (0.5 * (1.0 + lax.erf(wide * math.sqrt(0.5))))).astype(x.dtype)


@jax.custom_vjp
def _gelu(x: Array) -> Array:
    wide = x.astype(jnp.float32)
    y = wide * (0.5 * (1.0 + lax.erf(wide * math.sqrt(0.5))))
    # It is zero there already. XLA:CPU hands no selection to its library: without one, that takes the whole perceptron
    # at once, with every constant written out at full size.
    return jnp.where(wide < -10.0, 0.0, y).astype(x.dtype)


def _gelu_gradient(x: Array, grad: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    # erf is odd. Its forward value, written alike, would be found here and kept from there, as large as x.
    cumulative = 0.5 * (1.0 - lax.erf(wide * -math.sqrt(0.5)))
    density = jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2.0 * math.pi)
    return ((grad * (cumulative + wide * density)).astype(x.dtype),)


_gelu.defvjp(lambda x: (_gelu(x), x), _gelu_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalized(x: Array, scale: Array, bias: Array, epsilon: float, dtype: Any) -> Array:
    return _norm_forward(x, scale, bias, epsilon, dtype)[0]


def _norm_forward(x: Array, scale: Array, bias: Array, epsilon: float, dtype: Any) -> tuple[Array, Any]:
    """The variance takes two passes, as in PyTorch; E[x^2] - E[x]^2 loses digits where the mean is large."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    return ((wide - mean) * (inverse * scale) + bias).astype(dtype), (x, scale, bias, mean, inverse)


def _norm_backward(epsilon: float, dtype: Any, kept: Any, grad: Array) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, inverse = kept
    grad, rows = grad.astype(jnp.float32), tuple(range(x.ndim - 1))
    whitened = (x.astype(jnp.float32) - mean) * inverse
    scaled = grad * scale
    along = (scaled * whitened).mean(-1, keepdims=True)
    to_x = inverse * (scaled - scaled.mean(-1, keepdims=True) - whitened * along)
    return (
        to_x.astype(x.dtype),
        (grad * whitened).sum(rows).astype(scale.dtype),
        grad.sum(rows).astype(bias.dtype),
    )


_normalized.defvjp(_norm_forward, _norm_backward)
