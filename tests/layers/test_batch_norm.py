"""Batch normalisation with PyTorch's conventions; `tests/models/test_segmentation_parity.py` compares a whole step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.layers.batch_norm import BatchNorm

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (4, 5, 6, 3)).astype(np.float32)
VARIABLES = {
    "params": {"scale": np.array([1.0, 2.0, 0.5], np.float32), "bias": np.array([0.0, 1.0, -1.0], np.float32)},
    "batch_stats": {"mean": np.array([1.0, 2.0, 3.0], np.float32), "var": np.array([4.0, 1.0, 9.0], np.float32)},
}


def expected(mean, var):
    return (X - mean) / np.sqrt(var + 1e-5) * VARIABLES["params"]["scale"] + VARIABLES["params"]["bias"]


def test_running_statistics_serve_outside_training():
    stats = VARIABLES["batch_stats"]
    found = BatchNorm().apply(VARIABLES, X)
    np.testing.assert_allclose(found, expected(stats["mean"], stats["var"]), rtol=1e-5, atol=1e-5)


def test_training_uses_the_batch_and_moves_the_running_statistics():
    found, changed = BatchNorm().apply(VARIABLES, X, True, mutable=["batch_stats"])
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    np.testing.assert_allclose(found, expected(mean, var), rtol=1e-4, atol=1e-5)
    before, after = VARIABLES["batch_stats"], changed["batch_stats"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-5)
    unbiased = X.reshape(-1, 3).var(0, ddof=1)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * unbiased, rtol=1e-5)
    assert np.abs(unbiased - var).min() > 1e-3  # the two can be told apart


def test_statistics_that_nobody_wants_stay_as_they_are():
    found = BatchNorm().apply(VARIABLES, X, True)
    np.testing.assert_allclose(found, expected(X.mean((0, 1, 2)), X.var((0, 1, 2))), rtol=1e-4, atol=1e-5)


def test_init_gives_statistics_of_nothing_seen():
    stats = BatchNorm().init(jax.random.key(0), X, True)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(3))
    np.testing.assert_array_equal(stats["var"], np.ones(3))


def test_half_precision_keeps_statistics_in_float32():
    """Values around 300: sums of half precision would lose the deviation."""
    x = jnp.asarray(X * 0.5 + 300, jnp.bfloat16)
    found, changed = BatchNorm(dtype=jnp.bfloat16).apply(VARIABLES, x, True, mutable=["batch_stats"])
    assert found.dtype == jnp.bfloat16
    assert changed["batch_stats"]["var"].dtype == np.float32
    wide = np.asarray(x, np.float32)
    mean = (changed["batch_stats"]["mean"] - 0.9 * VARIABLES["batch_stats"]["mean"]) / 0.1
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-4)


def test_one_value_a_channel_is_refused_in_training_alone():
    x = X[:1, :1, :1]
    with pytest.raises(RequestError, match="one value per channel has no variance; train with two pictures or more"):
        BatchNorm().apply(VARIABLES, x, True)
    assert np.isfinite(BatchNorm().apply(VARIABLES, x)).all()
