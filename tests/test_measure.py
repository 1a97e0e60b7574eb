"""Counts against numbers worked out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.contracts import InputSpec
from crosscale.errors import RequestError
from crosscale.measure import count_costs, count_function_macs, count_macs, count_parameters, measure_memory

SPEC = InputSpec(size=(8, 12), channels=3)


class Stem(nn.Module):
    """A 4x4 convolution of stride 4 to 16 channels, the mean, and a linear layer to 5 classes."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Conv(16, (4, 4), strides=4, padding="VALID", name="stem")(images)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(5, name="head")(nn.gelu(x).mean((1, 2)))


def zeros(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_parameters_of_a_conv_and_a_dense():
    assert count_parameters(Stem(), SPEC) == (4 * 4 * 3 * 16 + 16) + (16 * 5 + 5)


@pytest.mark.parametrize("batch", [1, 7])
def test_macs_of_a_conv_and_a_dense(batch):
    # 2 x 3 positions, each 16 outputs of a 4 x 4 x 3 window; then 16 x 5.
    assert count_macs(Stem(), SPEC, batch) == batch * (2 * 3 * 16 * 4 * 4 * 3 + 16 * 5)


def test_a_kernel_that_starts_at_zero_still_counts():
    class Zero(nn.Module):
        @nn.compact
        def __call__(self, images, train: bool = False):
            return nn.Dense(5, kernel_init=nn.initializers.zeros, name="head")(images)

    assert count_macs(Zero(), SPEC) == 8 * 12 * 3 * 5


def test_batched_matrix_product():
    # 2 heads x (5 x 7) outputs, each a sum over 3.
    assert count_function_macs(lambda q, k: q @ k, zeros(2, 5, 3), zeros(2, 3, 7)) == 2 * 5 * 7 * 3


def test_product_that_contracts_two_dimensions():
    def product(a, b):
        return jnp.einsum("bijc,ijd->bcd", a, b)

    assert count_function_macs(product, zeros(2, 3, 4, 5), zeros(3, 4, 6)) == 2 * 5 * 6 * (3 * 4)


def test_products_with_a_constant_matrix_are_resampling_and_not_counted():
    rows = jnp.asarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4))

    def rescale_then_project(images, weights):
        small = jnp.einsum("oh,bhc->boc", jnp.sqrt(rows), images)  # inside jit of its own
        return small @ weights

    assert count_function_macs(rescale_then_project, zeros(2, 4, 5), zeros(5, 6)) == 2 * 3 * 5 * 6


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (1, 6 * 6 * 8 * 3 * 3 * 4),
        (2, 6 * 6 * 8 * 3 * 3 * 2),
        (4, 6 * 6 * 8 * 3 * 3 * 1),  # depthwise
    ],
)
def test_grouped_convolution(groups, expected):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    assert count_function_macs(convolve, zeros(1, 6, 6, 4), zeros(3, 3, 4 // groups, 8)) == expected


def test_convolution_with_batch_groups():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), batch_group_count=2
        )

    # Output (2, 4, 4, 6), each a sum over a 3 x 3 window of 5 channels.
    assert count_function_macs(convolve, zeros(4, 6, 6, 5), zeros(3, 3, 5, 6)) == 2 * 4 * 4 * 6 * 3 * 3 * 5


def test_scan_counts_its_body_times_its_length():
    def repeat(x, w):
        return jax.lax.scan(lambda carry, _: (carry @ w, None), x, None, length=9)[0]

    assert count_function_macs(repeat, zeros(2, 4), zeros(4, 4)) == 9 * 2 * 4 * 4


def test_scan_inside_scan():
    def repeat(x, w):
        def inner(carry, _):
            return jax.lax.scan(lambda c, _: (c @ w, None), carry, None, length=3)[0], None

        return jax.lax.scan(inner, x, None, length=5)[0]

    assert count_function_macs(repeat, zeros(2, 4), zeros(4, 4)) == 5 * 3 * 2 * 4 * 4


def test_jit_remat_and_custom_derivatives_are_entered_once():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))

    @jax.custom_jvp
    def other(x, w):
        return x @ w

    other.defjvp(lambda primals, tangents: (other(*primals), tangents[0] @ primals[1]))
    for wrapped in (jax.jit(jnp.matmul), jax.checkpoint(jnp.matmul), product, other):
        assert count_function_macs(wrapped, zeros(2, 3), zeros(3, 4)) == 2 * 3 * 4


def test_cond_counts_the_dearer_branch():
    def choose(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x, lambda x: x, x)

    assert count_function_macs(choose, jax.ShapeDtypeStruct((), jnp.bool_), zeros(4, 4)) == 4 * 4 * 4


def test_while_loop_is_refused_only_if_it_multiplies():
    def halve(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    def power(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x)

    assert count_function_macs(halve, zeros(4, 4)) == 0
    with pytest.raises(RequestError, match="while loop"):
        count_function_macs(power, zeros(4, 4))


def test_memory_holds_at_least_the_arguments_and_the_logits():
    memory = measure_memory(Stem(), SPEC, batch=2)
    assert memory is not None
    assert memory.arguments == 4 * (count_parameters(Stem(), SPEC) + 2 * 8 * 12 * 3)
    assert memory.outputs == 4 * 2 * 5
    assert memory.activations >= 4 * 2 * (2 * 3 * 16)  # the stem's output


def test_activations_alive_at_once():
    """x -> a (64 floats) -> b (64, a still needed) -> a + b: three arrays of 64 floats at the worst moment."""

    class Residual(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            a = images * 2.0
            b = jnp.sin(a)
            return a + b

    spec = InputSpec(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))
    assert count_costs(Residual(), spec).activations == 3 * 64 * 4
    assert count_costs(Residual(), spec, batch=5).activations == 5 * 3 * 64 * 4
