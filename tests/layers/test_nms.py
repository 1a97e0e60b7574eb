"""Both forms of suppression beside the reference's recorded answers and the greedy loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers.nms import best_nms, nms
from tests.layers.test_boxes import GOLDEN


def greedy(boxes, scores, threshold, labels, valid):
    """The loop of the definition; indices, the best first."""
    order = [i for i in np.argsort(-scores, kind="stable") if valid[i]]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order:
        best = order.pop(0)
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        common = np.maximum(sides, 0).prod(1)
        with np.errstate(invalid="ignore"):
            over = common / (area[best] + area[order] - common) > np.float32(threshold)
        order = [i for i, out in zip(order, over, strict=True) if not (out and labels[i] == labels[best])]
    return kept


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("kind", ["agnostic", "by_label"])
def test_what_remains_is_the_references(kind, threshold):
    boxes, scores = jnp.asarray(GOLDEN["nms/boxes"]), jnp.asarray(GOLDEN["nms/scores"])
    labels = jnp.asarray(GOLDEN["nms/labels"]) if kind == "by_label" else None
    expected = GOLDEN[f"nms/keep_{kind}_{threshold}"]
    kept = np.flatnonzero(jax.jit(lambda b, s: nms(b, s, threshold, labels=labels))(boxes, scores))
    assert set(kept) == set(expected)
    found, real = jax.jit(lambda b, s: best_nms(b, s, threshold, 320, labels=labels))(boxes, scores)
    np.testing.assert_array_equal(np.asarray(found)[np.asarray(real)], expected)


def test_a_box_of_each_class():
    """The reference's head of several classes, each with a box of its own: those above a score, and the 50 best."""
    boxes, scores = GOLDEN["nms/multi_boxes"].reshape(-1, 4), GOLDEN["nms/multi_scores"][:, :-1].reshape(-1)
    labels = np.tile(np.arange(4), 80)
    found, real = best_nms(
        jnp.asarray(boxes), jnp.asarray(scores), 0.5, 50, labels=jnp.asarray(labels), valid=jnp.asarray(scores > 0.05)
    )
    assert real.all()
    np.testing.assert_array_equal(labels[found], GOLDEN["nms/multi_labels"])
    np.testing.assert_allclose(boxes[found], GOLDEN["nms/multi_result"][:, :4])
    np.testing.assert_allclose(scores[found], GOLDEN["nms/multi_result"][:, 4])


@pytest.mark.slow
def test_thousands_of_random_cases_are_the_loops():
    """With ties of scores, of places and of whole boxes, boxes without area, few valid ones and none."""
    rng = np.random.default_rng(0)
    whole = jax.jit(jax.vmap(lambda b, s, c, v: nms(b, s, 0.5, labels=c, valid=v)))
    best = jax.jit(jax.vmap(lambda b, s, c, v: best_nms(b, s, 0.5, 8, labels=c, valid=v)))
    count, n = 2000, 24
    corners = rng.integers(0, 12, (count, n, 2)).astype(np.float32)
    sides = rng.integers(0, 8, (count, n, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + sides], -1)
    scores = rng.integers(0, 10, (count, n)).astype(np.float32) / 10
    labels, valid = rng.integers(0, 2, (count, n)), rng.random((count, n)) < rng.random((count, 1)) * 1.2
    kept, (found, real) = np.asarray(whole(boxes, scores, labels, valid)), best(boxes, scores, labels, valid)
    for i in range(count):
        expected = greedy(boxes[i], scores[i], 0.5, labels[i], valid[i])
        assert set(np.flatnonzero(kept[i])) == set(expected)
        assert list(np.asarray(found[i])[np.asarray(real[i])]) == expected[:8]


def test_a_chain_settles_from_the_front():
    """Each suppresses the next alone, so that every second one remains."""
    start = np.arange(40, dtype=np.float32)[:, None] * 4
    boxes = np.concatenate([start, start * 0, start + 10, start * 0 + 10], 1)
    kept = nms(jnp.asarray(boxes), jnp.linspace(1, 0.1, 40), 0.4)
    np.testing.assert_array_equal(kept, np.arange(40) % 2 == 0)
