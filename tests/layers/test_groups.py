import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.layers.groups import MASKED, GroupAttention, Grouping, group_map, key_mask, merge, partition

_PATH = Path(__file__).parents[1] / "golden" / "crossformer" / "crossformer_seeded.py"
_SPEC = importlib.util.spec_from_file_location("crossformer_seeded", _PATH)
seeded = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(seeded)

CASES = [((14, 14), 7, 1), ((10, 17), 7, 1), ((12, 24), 3, 4), ((10, 17), 4, 3), ((5, 9), 5, 2), ((1, 40), 3, 2)]


def cells(grouping: Grouping) -> np.ndarray:
    """Number of the cell at each place of each group, counted from 1 row by row; 0 is padding."""
    rows, columns = grouping.size
    numbers = 1 + np.arange(rows * columns, dtype=np.float32).reshape(1, rows, columns, 1)
    return np.asarray(partition(jnp.asarray(numbers), grouping))[..., 0].astype(int)


@pytest.mark.parametrize(("size", "side", "interval"), CASES)
def test_every_cell_is_in_one_group_and_comes_back(size, side, interval):
    grouping = group_map(size, side, interval)
    x = jnp.asarray(seeded.array("x", (2, *size, 3)))
    np.testing.assert_array_equal(merge(partition(x, grouping), grouping), x)
    placed = cells(grouping)
    assert sorted(placed[placed > 0]) == list(range(1, size[0] * size[1] + 1))


@pytest.mark.parametrize(("size", "side", "interval"), [c for c in CASES if min(c[0]) > c[1]])
def test_a_group_is_cells_of_one_region_spaced_by_the_interval(size, side, interval):
    for group in cells(group_map(size, side, interval)):
        for place, number in enumerate(group):
            if number:
                y, x = divmod(number - 1, size[1])
                assert (y // interval % side, x // interval % side) == divmod(place, side)
        ys, xs = np.divmod(group[group > 0] - 1, size[1])
        region = side * interval
        for axis in (ys, xs):
            assert len({*(axis // region)}) <= 1
            assert len({*(axis % interval)}) <= 1


def test_the_mask_covers_the_padding_and_only_the_keys_there():
    for size, side, interval in CASES:
        grouping = group_map(size, side, interval)
        mask, placed = key_mask(grouping), cells(grouping)
        if mask is None:
            assert (placed > 0).all()
        else:
            np.testing.assert_array_equal(mask, np.where(placed > 0, 0, MASKED))


@pytest.mark.parametrize("size", [(7, 7), (5, 30), (30, 5)])
def test_a_map_no_larger_than_a_group_is_one_group(size):
    grouping = group_map(size, 7, 8)
    assert (grouping.group, grouping.interval, grouping.regions) == (size, 1, (1, 1))
    assert key_mask(grouping) is None


@pytest.mark.parametrize(("size", "side", "interval"), [((10, 17), 7, 1), ((10, 17), 4, 3)])
def test_attention_equals_the_sum_over_cells_of_the_same_group(size, side, interval):
    """Against a loop over cells that knows no padding, no mask and no order of groups."""
    layer = GroupAttention(num_heads=2, group_size=side, interval=interval)
    x = jnp.asarray(seeded.array("x", (1, *size, 32)))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda p: 0.2 * jnp.asarray(seeded.array(str(p.shape), p.shape)), params)
    got = np.asarray(jax.jit(layer.apply)(params, x))[0].reshape(-1, 32)
    p = jax.tree.map(np.asarray, params["params"])
    flat = np.asarray(x).reshape(-1, 32)
    qkv = flat @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    q, k, v = (np.asarray(t).reshape(-1, 2, 16) for t in np.split(qkv, 3, axis=-1))
    region = side * interval

    def bias(dy, dx):
        net = p["position_bias"]
        h = np.array([dy, dx], np.float32) @ net["dense_0"]["kernel"] + net["dense_0"]["bias"]
        for i in (1, 2, 3):
            n, d = net[f"norm_{i}"], net[f"dense_{i}"]
            h = (h - h.mean()) / np.sqrt(h.var() + 1e-5) * n["scale"] + n["bias"]
            h = np.maximum(h, 0) @ d["kernel"] + d["bias"]
        return h

    for y, x0 in ((0, 0), (9, 16), (4, 11), (7, 13)):
        mates = [
            (r, c)
            for r in range(size[0])
            for c in range(size[1])
            if (r // region, c // region) == (y // region, x0 // region)
            and (r % interval, c % interval) == (y % interval, x0 % interval)
        ]
        index = [r * size[1] + c for r, c in mates]
        offsets = np.stack([bias((y - r) // interval, (x0 - c) // interval) for r, c in mates])
        scores = np.einsum("hd,nhd->nh", q[y * size[1] + x0], k[index]) / 4 + offsets
        weights = np.exp(scores - scores.max(0)) / np.exp(scores - scores.max(0)).sum(0)
        out = np.einsum("nh,nhd->hd", weights, v[index]).reshape(-1) @ p["out"]["kernel"] + p["out"]["bias"]
        assert seeded.deviation(got[y * size[1] + x0], np.asarray(out)) < 1e-5


def test_groups_of_nothing_but_padding_stay_finite_forwards_and_backwards():
    layer = GroupAttention(num_heads=2, group_size=2, interval=8)  # a region of 16 x 16 for a map of 3 x 3
    x = jnp.asarray(seeded.array("x", (1, 3, 3, 32)))
    params = jax.jit(layer.init)(jax.random.key(0), x)
    value, grads = jax.jit(jax.value_and_grad(lambda p: (layer.apply(p, x) ** 2).sum()))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_heads_must_divide_the_width():
    with pytest.raises(RequestError, match="num_heads=5 does not divide the width 32"):
        GroupAttention(num_heads=5, group_size=2).init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))
