"""Pictures rescaled along one axis by a constant matrix of few entries a row."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jax.numpy as jnp
import numpy as np
from jax import lax

from crosscale.contracts import Array
from crosscale.layers.kernels.choice import asked, by_platform

Rescale = TypeVar("Rescale", bound=Callable[..., Array])
MOST_CHANNELS = 4  # pictures, which have few; maps of many channels suit products


def rounded_once(rescale: Rescale) -> Rescale:
    """`rescale` computed in float32 or wider: half precision is rounded once, at the end; integers give float32.

    The weights are fractions: of an integer type they would be zero, of a half-precision type they would be rounded.
    """

    @wraps(rescale)
    def run(x: Array, *args: Any, **kwargs: Any) -> Array:
        real = jnp.issubdtype(x.dtype, jnp.floating)
        if real and x.dtype.itemsize >= 4:
            return rescale(x, *args, **kwargs)
        y = rescale(x.astype(jnp.float32), *args, **kwargs)
        return y.astype(x.dtype) if real else y

    return cast(Rescale, run)


@rounded_once
def resample(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """`matrix` applied along rows (axis 1) or columns (axis 2), at full precision.

    Args:
      x: (B, H, W, C); integers give float32.
      matrix: (new size, size of the axis).
    """
    form = asked().resample

    def choose(platform: str) -> str:
        return form or ("taps" if platform == "gpu" and x.shape[-1] <= MOST_CHANNELS else "products")

    def run(form: str, x: Array) -> Array:
        return _taps(x, matrix, axis) if form == "taps" else _products(x, matrix, axis)

    y: Array = by_platform(choose, run, x)
    return y


def _products(x: Array, matrix: np.ndarray, axis: int) -> Array:
    # Full precision also where matmuls default to TF32 or bfloat16: the pixels decide everything after them.
    equation = "oh,bhwc->bowc" if axis == 1 else "ow,bhwc->bhoc"
    return jnp.einsum(equation, jnp.asarray(matrix, x.dtype), x, precision=lax.Precision.HIGHEST)


def _taps(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """Only the entries that are not zero, as one elementwise pass.

    A GPU has no matrix unit for float32 at full precision, and a product would want the axis moved first.
    """
    count = int((matrix != 0).sum(1).max())
    index = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :count], axis=1)
    weights = np.take_along_axis(matrix, index, axis=1)
    shape = [1, -1, 1, 1] if axis == 1 else [1, 1, -1, 1]
    terms = [
        jnp.take(x, index[:, tap], axis, mode="clip") * jnp.asarray(weights[:, tap].reshape(shape), x.dtype)
        for tap in range(count)
    ]
    return sum(terms[1:], terms[0])
