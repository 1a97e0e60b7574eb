from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers.conv import Conv
from crosscale.layers.kernels import strided_conv, use_kernels
from crosscale.layers.kernels.products import convolution, strided_products
from crosscale.measure import count_function_macs

# kernel, stride, padding, channels, features: the embedding's four scales, the stem's first, the merging's, odd ones
CASES = [
    (4, 4, 0, 3, 12),
    (8, 4, 2, 3, 6),
    (32, 4, 14, 3, 4),
    (7, 4, 3, 3, 8),
    (3, 3, 1, 4, 5),
    (4, 2, 1, 16, 8),
    (5, 2, 0, 2, 3),
    (3, 2, 1, 2, 3),
]


def with_gradients(function, x, kernel, cotangent):
    """A function's output, and its gradients for this cotangent, as one program."""

    def both(x, kernel, cotangent):
        output, pull = jax.vjp(function, x, kernel)
        return output, pull(cotangent)

    return jax.jit(both)(x, kernel, cotangent)


@pytest.mark.parametrize(("size", "case"), product([(36, 40), (37, 43)], CASES))
def test_strided_products_are_the_convolution_with_its_gradients(size, case):
    k, stride, padding, channels, features = case
    keys = jax.random.split(jax.random.key(k), 3)
    x = jax.random.normal(keys[0], (2, *size, channels))
    kernel = jax.random.normal(keys[1], (k, k, channels, features)) / (k * channels**0.5)
    shape = tuple((pixels + 2 * padding - k) // stride + 1 for pixels in size)
    cotangent = jax.random.normal(keys[2], (2, *shape, features))
    theirs, gradients = with_gradients(lambda x, w: convolution(x, w, stride, padding), x, kernel, cotangent)
    ours, our_gradients = with_gradients(lambda x, w: strided_products(x, w, stride, padding), x, kernel, cotangent)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for a, b in zip(our_gradients, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize(("k", "padding"), [(3, 1), (3, 0), (5, 2), (2, 1), (1, 0)])
def test_the_written_gradient_of_a_convolution_is_the_derived_one(k, padding):
    rng = np.random.default_rng(k)
    x, kernel = rng.normal(size=(2, 7, 9, 5)).astype("f"), rng.normal(size=(k, k, 5, 4)).astype("f")
    found = {}
    for form in ("written", "derived"):
        with use_kernels(gradients=form, convolution="convolution", platforms=("cpu",)):
            y, pull = jax.vjp(lambda x, kernel: strided_conv(x, kernel, 1, padding), x, kernel)
            found[form] = (y, *pull(jnp.cos(y)))
    for written, derived in zip(*found.values(), strict=True):
        np.testing.assert_allclose(written, derived, rtol=1e-4, atol=1e-4)


def test_half_precision_is_summed_in_float32():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (1, 64, 64, 3)).astype(jnp.bfloat16)
    kernel = (jax.random.normal(keys[1], (32, 32, 3, 4)) / 55).astype(jnp.bfloat16)
    exact = convolution(x.astype(jnp.float32), kernel.astype(jnp.float32), 4, 14)
    ours = strided_products(x, kernel, 4, 14)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(np.float32), exact, atol=2**-8 * float(np.abs(exact).max()))


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "groups", "convolutions"),
    [(8, 4, 2, 1, 0), (4, 4, 0, 1, 0), (3, 1, 1, 1, 1), (3, 2, 1, 1, 1), (8, 4, 2, 2, 1)],
)
def test_a_processor_gets_products_where_they_win(kernel_size, stride, padding, groups, convolutions):
    layer = Conv(4, kernel_size, stride, padding, groups)
    x = jnp.zeros((1, 32, 32, 2))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert str(jax.make_jaxpr(layer.apply)(params, x)).count("conv_general_dilated") == convolutions


def test_an_accelerator_gets_convolutions(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    layer = Conv(4, 8, 4, 2)
    x = jnp.zeros((1, 32, 32, 2))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert "conv_general_dilated" in str(jax.make_jaxpr(layer.apply)(params, x))


@pytest.mark.parametrize(("k", "stride", "padding", "channels", "features"), [*CASES[:6], (3, 1, 1, 4, 5)])
def test_what_products_cost_beyond_the_convolution_is_told(k, stride, padding, channels, features):
    layer = Conv(features, k, stride, padding)
    x, kernel = jnp.zeros((2, 37, 43, channels)), jnp.zeros((k, k, channels, features))
    params = {"params": {"kernel": kernel, "bias": jnp.zeros(features)}}
    convolved = count_function_macs(lambda x, w: convolution(x, w, stride, padding), x, kernel)
    assert count_function_macs(layer.apply, params, x) - convolved == layer.additional_macs(x)
