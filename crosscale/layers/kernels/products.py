"""Linear layers and strided convolutions as the matrix products that suit the platform."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from crosscale.contracts import Array
from crosscale.layers.kernels.choice import asked, by_platform, gradient_form, platforms
from crosscale.layers.kernels.manual import varying_alike

# A side that is no multiple of the stride is filled up with zeros to the next one. The products still win with this
# many times the taps: sides of 7 at stride 4 have 1.31 times as many, and sides of 3 at stride 2, which lose, 1.78.
MOST_TAPS = 1.4
HALF = (jnp.bfloat16, jnp.float16)


def dense(x: Array, kernel: Array, bias: Array | None) -> Array:
    """(..., C) with a kernel (C, F) and a bias (F,) or None -> (..., F) of x's type.

    The tokens are flattened to (B * N, C) first, so that the weight gradient is one plain matmul.
    """
    form = asked().dense
    y: Array = by_platform(lambda platform: form or dense_form(platform, x.dtype), _dense, x, kernel, bias)
    return y


def dense_parts(x: Array, kernel: Array, bias: Array | None, parts: int) -> tuple[Array, ...]:
    """`dense`, cut into equal parts of the last axis: (..., C) -> `parts` of (..., F / parts)."""
    wide, form = asked().dense, asked().parts

    def choose(platform: str) -> tuple[str, str]:
        # A GPU's products wait for memory. Cutting a result up would be a pass of its own, and joining the gradients.
        split = "split" if platform == "gpu" and x.dtype in HALF else "joint"
        return wide or dense_form(platform, x.dtype), form or split

    def run(forms: tuple[str, str], x: Array, kernel: Array, bias: Array | None) -> tuple[Array, ...]:
        wide, form = forms
        if form == "joint":
            return tuple(jnp.split(_dense(wide, x, kernel, bias), parts, axis=-1))
        kernels = jnp.split(kernel, parts, axis=-1)
        biases = [None] * parts if bias is None else jnp.split(bias, parts)
        return tuple(_dense(wide, x, *given) for given in zip(kernels, biases, strict=True))

    found: tuple[Array, ...] = by_platform(choose, run, x, kernel, bias)
    return found


def dense_form(platform: str, dtype: Any) -> str:
    """A processor's matrix units take half precision and give float32. Asked for halves, XLA does without them."""
    return "wide" if platform == "cpu" and dtype in HALF else "own"


def _dense(form: str, x: Array, kernel: Array, bias: Array | None) -> Array:
    result = jnp.promote_types(x.dtype, jnp.float32) if form == "wide" else x.dtype
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=result)
    if bias is not None:
        y = y + bias
    return y.astype(x.dtype).reshape(*x.shape[:-1], kernel.shape[-1])


def strided_conv(x: Array, kernel: Array, stride: int, padding: int, groups: int = 1) -> Array:
    """(B, H, W, C) with a kernel (k, k, C / groups, F) -> (B, rows, columns, F)."""

    k = kernel.shape[0]

    def choose(platform: str) -> tuple[str, str]:
        form = conv_form(platform, (x.shape[1], x.shape[2]), k, stride, padding, groups)
        return form, gradient_form(platform) if stride == groups == 1 and padding < k else "derived"

    def run(forms: tuple[str, str], x: Array, kernel: Array) -> Array:
        if forms[0] == "products":
            return strided_products(x, kernel, stride, padding)
        if forms[1] == "written":
            return _dense_convolution(padding, *varying_alike(x, kernel))
        return convolution(x, kernel, stride, padding, groups)

    return by_platform(choose, run, x, kernel)


def conv_form(platform: str, size: tuple[Any, Any], kernel_size: int, stride: int, padding: int, groups: int) -> str:
    """Products for whole patches everywhere, and on a processor for strided convolutions of few taps more."""
    if groups > 1:
        return "convolution"
    if (form := asked().convolution) is not None:
        return form
    if kernel_size == stride and padding == 0:
        return "products"
    sizes_known = all(isinstance(side, int) for side in size)
    taps = (math.ceil(kernel_size / stride) * stride / kernel_size) ** 2
    return "products" if platform == "cpu" and sizes_known and stride > 1 and taps < MOST_TAPS else "convolution"


def additional_macs(x: Array, features: int, kernel_size: int, stride: int, padding: int, groups: int) -> int:
    """Multiply-accumulates of `strided_conv` on (B, H, W, C) beyond the convolution's: products take whole cells."""
    batch, height, width, channels = x.shape
    if conv_form(platforms()[0], (height, width), kernel_size, stride, padding, groups) != "products":
        return 0
    rows, columns = output_size((height, width), kernel_size, stride, padding)
    n = math.ceil(kernel_size / stride)
    seen = rows + n - 1, columns + (0 if _side_by_side(n, stride, channels, features) else n - 1)
    own = math.prod((rows, columns)) * kernel_size**2
    return batch * channels * features * (math.prod(seen) * (n * stride) ** 2 - own)


def output_size(size: tuple[Any, Any], kernel_size: int, stride: int, padding: int) -> tuple[Any, Any]:
    """Rows and columns of a convolution's result."""
    rows, columns = ((side + 2 * padding - kernel_size) // stride + 1 for side in size)
    return rows, columns


def convolution(x: Array, kernel: Array, stride: int, padding: int, groups: int = 1) -> Array:
    """(B, H, W, C) with a kernel (k, k, C / groups, F) -> (B, rows, columns, F)."""
    return lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel),
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense_convolution(padding: int, x: Array, kernel: Array) -> Array:
    """`convolution` of stride 1, whose kernel's gradient is a matrix product for each of its cells.

    XLA:CPU computes that gradient as a convolution with a kernel of the map's size: on maps of 128 x 128 cells five
    times as slow.
    """
    return convolution(x, kernel, 1, padding)


def _forward(padding: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _dense_convolution(padding, x, kernel), (x, kernel)


def _backward(padding: int, kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    k, channels, features = kernel.shape[0], x.shape[-1], dy.shape[-1]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    flat = dy.reshape(-1, features)

    def cell(i: int, j: int) -> Array:
        under = padded[:, i : i + dy.shape[1], j : j + dy.shape[2]].reshape(-1, channels)
        return jnp.matmul(under.T, flat, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))

    gradient = jnp.stack([jnp.stack([cell(i, j) for j in range(k)]) for i in range(k)])
    return convolution(dy, turned, 1, k - 1 - padding), gradient.astype(kernel.dtype)


_dense_convolution.defvjp(_forward, _backward)


def strided_products(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """`convolution` as one matrix product over cells of stride x stride pixels.

    On a processor several times as fast as XLA's own where channels are few, and in the gradients. A window spans n
    cells in each direction. Each row of cells is multiplied with all n rows of the kernel, whose results are then
    added where they belong. The n columns either lie side by side in what is multiplied, or are added like the rows,
    whichever takes less memory.

    Args:
      x: (B, H, W, C).
      kernel: (k, k, C, F).
      stride: step in both directions.
      padding: zeros added on each of the four sides.

    Returns:
      (B, rows, columns, F); sums are float32 whatever the inputs' type.
    """
    k, _, channels, features = kernel.shape
    n = math.ceil(k / stride)
    rows, columns = output_size((x.shape[1], x.shape[2]), k, stride, padding)
    cells = _cells(x, rows + n - 1, columns + n - 1, stride, padding)
    missing = n * stride - k
    kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
    kernel = kernel.reshape(n, stride, n, stride, channels, features)
    if _side_by_side(n, stride, channels, features):
        cells = jnp.concatenate([cells[:, :, j : j + columns] for j in range(n)], axis=-1)
        matrix = kernel.transpose(2, 1, 3, 4, 0, 5).reshape(-1, n * features)
        parts = _product(cells, matrix, n, 1, features)
    else:
        matrix = kernel.transpose(1, 3, 4, 0, 2, 5).reshape(-1, n * n * features)
        parts = _product(cells, matrix, n, n, features)
    shifted = [
        parts[:, i : i + rows, j : j + columns, i, j] for i in range(parts.shape[3]) for j in range(parts.shape[4])
    ]
    return sum(shifted[1:], shifted[0]).astype(x.dtype)


def _side_by_side(n: int, stride: int, channels: int, features: int) -> bool:
    return stride * stride * channels <= n * features


def _cells(x: Array, rows: Any, columns: Any, side: int, padding: int) -> Array:
    """(B, H, W, C) -> (B, rows, columns, side * side * C), with `padding` zeros at the top and the left."""
    batch, _, _, channels = x.shape
    x = x[:, : rows * side - padding, : columns * side - padding]
    below, right = rows * side - padding - x.shape[1], columns * side - padding - x.shape[2]
    if any(amount != 0 for amount in (padding, below, right)):
        x = jnp.pad(x, ((0, 0), (padding, below), (padding, right), (0, 0)))
    x = x.reshape(batch, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows, columns, side * side * channels)


def _product(cells: Array, matrix: Array, *split: int) -> Array:
    flat = jnp.matmul(cells.reshape(-1, cells.shape[-1]), matrix, preferred_element_type=jnp.float32)
    return flat.reshape(*cells.shape[:3], *split)
