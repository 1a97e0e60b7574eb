import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.layers.cross_scale import CrossScaleEmbedding, check_kernels, split_widths


@pytest.mark.parametrize(
    ("features", "count", "widths"),
    [(96, 4, (48, 24, 12, 12)), (192, 2, (96, 96)), (64, 1, (64,)), (50, 3, (25, 12, 13))],
)
def test_larger_kernels_get_fewer_channels_and_the_last_the_remainder(features, count, widths):
    assert split_widths(features, count) == widths
    assert sum(widths) == features


@pytest.mark.parametrize("size", [(32, 32), (33, 35), (64, 36)])
def test_all_scales_share_one_grid(size):
    layer = CrossScaleEmbedding(32, (4, 8, 16, 32), 4)
    shape = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.zeros((2, *size, 3)))[0].shape
    assert shape == (2, size[0] // 4, size[1] // 4, 32)


def test_each_scale_sees_its_kernel_around_the_same_centre():
    """The gradient of one cell with respect to the image shows which pixels it read."""
    kernels, widths = (4, 8, 16), split_widths(16, 3)
    layer = CrossScaleEmbedding(16, kernels, 4)
    x = jnp.zeros((1, 42, 40, 1))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda p: np.ones(p.shape, np.float32), params)
    starts = np.cumsum((0, *widths))
    for i, kernel in enumerate(kernels):
        channel = int(starts[i])
        read = jax.jit(jax.grad(lambda x, c=channel: layer.apply(params, x)[0, 5, 4, c]))(x)[0, :, :, 0]
        rows, columns = np.nonzero(np.asarray(read))
        margin = (kernel - 4) // 2
        assert (rows.min(), rows.max()) == (20 - margin, 23 + margin)
        assert (columns.min(), columns.max()) == (16 - margin, 19 + margin)


@pytest.mark.parametrize(
    ("kernels", "features", "reason"),
    [
        ((4, 7), 16, r"7 must exceed the stride 4 by 0 or an even number, such as 8"),
        ((2,), 16, r"2 must exceed the stride 4 .* such as 4"),
        ((4, 8, 16, 32), 4, r"4 kernels cannot share 4 channels"),
        ((), 16, r"0 kernels"),
    ],
)
def test_kernels_that_do_not_fit_are_refused(kernels, features, reason):
    with pytest.raises(RequestError, match=reason):
        check_kernels(kernels, 4, features, "patch_size")
