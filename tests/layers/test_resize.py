"""Resizing and pooling of maps against PyTorch's (tests/golden/segmentation/operations.npz)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers.kernels import use_kernels
from crosscale.layers.pooling import adaptive_average_pool
from crosscale.layers.resize import resize_bicubic, resize_bilinear, resize_nearest
from tests.golden.segmentation import segmentation_seeded as seeded

GOLDEN = seeded.read("operations")
X = GOLDEN["resize/x"]


def named(prefix):
    return sorted(key for key in GOLDEN if key.startswith(prefix) and "corners" not in key and "/x" not in key)


def size_of(key):
    rows, columns = key.rpartition("_")[2].split("x")
    return int(rows), int(columns)


@pytest.mark.parametrize("key", named("resize/bilinear"))
def test_bilinear_equals_the_reference(key):
    """Up by whole and by other factors, down, and to one cell."""
    assert seeded.deviation(resize_bilinear(X, size_of(key)), GOLDEN[key]) < 2e-6


@pytest.mark.parametrize("key", named("resize/nearest"))
def test_nearest_equals_the_reference(key):
    np.testing.assert_array_equal(resize_nearest(X, size_of(key)), GOLDEN[key])


@pytest.mark.parametrize("key", named("pool/"))
def test_pooling_equals_the_reference(key):
    size, _, bins = key.removeprefix("pool/").rpartition("_to_")
    assert seeded.deviation(adaptive_average_pool(GOLDEN[f"pool/x_{size}"], int(bins)), GOLDEN[key]) < 1e-6


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_whole_factor_has_the_gradient_of_the_products(factor):
    size = (7 * factor, 10 * factor)
    cotangent = seeded.array("cotangent", (1, *size, 2))

    def slope(resize):
        return jax.grad(lambda x: (resize(x) * cotangent).sum())(jnp.asarray(X))

    wanted = slope(lambda x: jax.image.resize(x, (1, *size, 2), "linear", antialias=False))
    assert seeded.deviation(slope(lambda x: resize_bilinear(x, size)), np.asarray(wanted)) < 1e-5


def test_the_own_size_is_left_alone():
    assert resize_bilinear(X, X.shape[1:3]) is X
    assert resize_nearest(X, X.shape[1:3]) is X


def test_half_precision_is_summed_in_float32():
    x = jnp.asarray(X, jnp.bfloat16)
    found = resize_bilinear(x, (28, 10))
    assert found.dtype == jnp.bfloat16
    exact = resize_bilinear(x.astype(jnp.float32), (28, 10))
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


RESCALES = {
    "bicubic": lambda x: resize_bicubic(x, (7, 5)),
    "bilinear": lambda x: resize_bilinear(x, (7, 5)),
    "bilinear, by a whole factor": lambda x: resize_bilinear(x, (20, 30)),
    "pooling": lambda x: adaptive_average_pool(x, 3),
}


@pytest.mark.parametrize("rescale", RESCALES.values(), ids=RESCALES.keys())
@pytest.mark.parametrize("form", ["products", "taps"])
def test_integers_become_the_float32_of_their_numbers(rescale, form):
    x = np.random.default_rng(0).integers(0, 256, (1, 10, 10, 2)).astype(np.uint8)
    with use_kernels(resample=form):
        found = rescale(jnp.asarray(x))
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, rescale(jnp.asarray(x, jnp.float32)))


@pytest.mark.parametrize("rescale", RESCALES.values(), ids=RESCALES.keys())
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(rescale, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 10, 10, 2)), dtype)
    np.testing.assert_array_equal(rescale(x), rescale(x.astype(jnp.float32)).astype(dtype))
