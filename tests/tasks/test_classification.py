"""Loss and metrics against the formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.data.augment import Augment
from crosscale.tasks.classification import Classification

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 7)).astype(np.float32) * 3
LABELS = RNG.integers(0, 7, 12).astype(np.int32)
WEIGHT = np.array([1.0] * 9 + [0.0] * 3, np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_loss_is_cross_entropy_with_soft_targets() -> None:
    targets = RNG.dirichlet(np.ones(7), 12).astype(np.float32)
    total, count = Classification(7).loss(jnp.asarray(LOGITS), jnp.asarray(targets), jnp.asarray(WEIGHT))
    want = -(targets * log_softmax(LOGITS)).sum(-1)[:9].sum()
    assert (float(total), float(count)) == (pytest.approx(want, rel=1e-5), 9.0)


def test_an_infinite_padded_example_does_not_spoil_the_loss() -> None:
    logits = jnp.asarray(LOGITS).at[11].set(jnp.nan)
    targets = jax.nn.one_hot(LABELS, 7)
    task = Classification(7)
    value, gradient = jax.value_and_grad(lambda x: task.loss(x, targets, jnp.asarray(WEIGHT))[0])(logits)
    assert np.isfinite(float(value))
    assert np.isfinite(np.asarray(gradient)[:11]).all()


def test_metrics_equal_a_sort() -> None:
    batch = {"label": jnp.asarray(LABELS), "weight": jnp.asarray(WEIGHT)}
    got = {k: tuple(map(float, v)) for k, v in Classification(7).metrics(jnp.asarray(LOGITS), batch).items()}
    order = np.argsort(-LOGITS, axis=-1)
    rank = (order == LABELS[:, None]).argmax(-1)[:9]
    assert got["top1"] == ((rank == 0).sum(), 9)
    assert got["top5"] == ((rank < 5).sum(), 9)
    want = -log_softmax(LOGITS)[np.arange(12), LABELS][:9].sum()
    assert got["loss"] == (pytest.approx(want, rel=1e-5), 9)


def test_top5_of_three_classes_is_top3() -> None:
    batch = {"label": jnp.arange(3), "weight": jnp.ones(3)}
    got = Classification(3).metrics(jnp.eye(3), batch)
    assert float(got["top5"][0]) == 3


def test_nan_logits_are_no_hit() -> None:
    batch = {"label": jnp.zeros(2, jnp.int32), "weight": jnp.ones(2)}
    got = jax.jit(Classification(3).metrics)(jnp.full((2, 3), jnp.nan), batch)
    assert float(got["top1"][0]) == float(got["top5"][0]) == 0


def test_without_augmentation_the_targets_are_smoothed_labels() -> None:
    images = jnp.ones((4, 2, 2, 1))
    batch = {"label": jnp.asarray([0, 1, 2, 2]), "weight": jnp.ones(4)}
    same, targets = Classification(4, 0.2).augment(jax.random.key(0), images, batch)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_allclose(targets[0], [0.85, 0.05, 0.05, 0.05], rtol=1e-6)


def test_mixing_keeps_each_row_of_targets_a_distribution() -> None:
    images = jnp.asarray(RNG.normal(size=(8, 6, 6, 1)), jnp.float32)
    batch = {"label": jnp.arange(8) % 4, "weight": jnp.ones(8)}
    task = Classification(4, 0.1, Augment(mixup=1.0, cutmix=1.0, erase_prob=1.0))
    mixed, targets = jax.jit(task.augment)(jax.random.key(0), images, batch)
    np.testing.assert_allclose(np.asarray(targets).sum(-1), 1.0, rtol=1e-5)
    assert np.any(np.asarray(mixed) != np.asarray(images))


def test_better_is_more_top1_then_less_loss() -> None:
    score = Classification(4).score
    low, high = {"top1": 0.5, "loss": 0.1}, {"top1": 0.6, "loss": 0.9}
    assert score(high) > score(low)
    assert score({"top1": 0.6, "loss": 0.8}) > score(high) > score({"top1": 0.6, "loss": float("nan")})


def test_decode_names_the_best_first() -> None:
    ((first, second),) = Classification(3).decode(jnp.asarray([[0.0, 2.0, 1.0]]), ["a", "b", "c"], 2)
    assert (first[0], second[0]) == ("b", "c")
    assert first[1] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)), rel=1e-5)
    assert len(Classification(3).decode(jnp.zeros((1, 3)), ["a", "b", "c"], 9)[0]) == 3
