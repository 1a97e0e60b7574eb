import jax
import numpy as np
import pytest

from crosscale.layers.position_bias import DynamicPositionBias, relative_offsets


@pytest.fixture(scope="module")
def network():
    layer = DynamicPositionBias(num_heads=3, hidden_dim=8)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), (2, 2)))
    random = np.random.RandomState(0)
    params = jax.tree.map(lambda p: random.standard_normal(p.shape).astype(np.float32), shapes)
    apply = jax.jit(layer.apply, static_argnums=1)
    return lambda size: np.asarray(apply(params, size))


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
def test_the_index_finds_the_offset_of_each_pair(size):
    offsets, index = relative_offsets(size)
    places = np.stack([axis.ravel() for axis in np.indices(size)], -1)
    np.testing.assert_array_equal(offsets[index], places[:, None] - places[None, :])
    assert len(offsets) == (2 * size[0] - 1) * (2 * size[1] - 1) == len(np.unique(offsets, axis=0))


def test_the_bias_depends_on_the_offset_and_its_sign_alone(network):
    bias = network((3, 4)).reshape(3, 3, 4, 3, 4)
    np.testing.assert_allclose(bias[:, 0, 1, 1, 3], bias[:, 1, 0, 2, 2], rtol=1e-6)
    assert np.abs(bias[:, 0, 1, 1, 3] - bias[:, 1, 3, 0, 1]).min() > 1e-3
    assert np.abs(bias[0] - bias[1]).max() > 1e-3  # each head has its own


def test_a_larger_group_contains_the_smaller_ones_biases(network):
    small, large = network((3, 3)), network((5, 7)).reshape(3, 5, 7, 5, 7)
    np.testing.assert_allclose(large[:, :3, :3, :3, :3].reshape(3, 9, 9), small, atol=1e-6)
