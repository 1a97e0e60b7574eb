"""How parameters start: bit by bit what JAX's own draws of the same shape give, and compiled as a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from crosscale.draws import drawn
from crosscale.layers.initializers import HE_NORMAL, XAVIER_UNIFORM, normal, torch_uniform, trunc_normal

SHAPES = [(16, 10), (3, 3, 4, 8), (1, 5, 6)]
JAX = {
    "trunc_normal(0.02)": lambda key, shape: 0.02 * jax.random.truncated_normal(key, -100.0, 100.0, shape),
    "uniform(+-0.5000)": lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -0.5, 0.5),
    "normal(0.01)": nn.initializers.normal(0.01),
    "he_normal(fan_out)": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    "xavier_uniform": nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ours", [trunc_normal(), torch_uniform(4), normal(0.01), HE_NORMAL, XAVIER_UNIFORM])
def test_values_are_those_of_jax(ours: nn.initializers.Initializer, shape: tuple[int, ...]) -> None:
    key = jax.random.key(3)
    np.testing.assert_array_equal(ours(key, shape, jnp.float32), JAX[ours.__name__](key, shape))


def test_numbers_are_drawn_in_a_row() -> None:
    asked = []

    def draw(shape: tuple[int]) -> jax.Array:
        asked.append(shape)
        return jnp.arange(shape[0])

    np.testing.assert_array_equal(drawn((2, 3), draw), [[0, 1, 2], [3, 4, 5]])
    assert asked == [(6,)]
    assert drawn((), draw).shape == ()
