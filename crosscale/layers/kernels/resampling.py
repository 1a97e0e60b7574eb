"""Pictures rescaled along one axis by a constant matrix of few entries a row."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from crosscale.contracts import Array
from crosscale.layers.kernels.choice import asked, by_platform

MOST_CHANNELS = 4  # pictures, which have few; maps of many channels suit products


def resample(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """`matrix` applied along rows (axis 1) or columns (axis 2), at full precision.

    Args:
      x: (B, H, W, C).
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
