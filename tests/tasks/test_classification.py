"""Loss and metrics against the formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.data.augment import Augment
from crosscale.errors import RequestError
from crosscale.tasks.checks import check_result_options
from crosscale.tasks.classification import Classification
from crosscale.tasks.classification.metric import aurocs
from crosscale.tasks.measure import check_best
from crosscale.tasks.measure import score as measure_score

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 7)).astype(np.float32) * 3
LABELS = RNG.integers(0, 7, 12).astype(np.int32)
WEIGHT = np.array([1.0] * 9 + [0.0] * 3, np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def counted(task: Classification, outputs: jax.Array, batch: dict[str, jax.Array]) -> dict[str, tuple]:
    """The state of the task's metric after one batch: (sum, count) by name."""
    return task.metric.update(task.metric.init(), outputs, batch)


@pytest.mark.slow
def test_states_merge_to_what_one_batch_gives() -> None:
    metric, halves = Classification(7).metric, [slice(0, 5), slice(5, 12)]
    whole = counted(Classification(7), LOGITS, {"label": LABELS, "weight": WEIGHT})
    merged = metric.init()
    for half in halves:
        part = counted(Classification(7), LOGITS[half], {"label": LABELS[half], "weight": WEIGHT[half]})
        merged = metric.merge(merged, part)
    got, want = metric.compute(merged, {}), metric.compute(whole, {})
    assert got == {name: pytest.approx(value, rel=1e-6, nan_ok=True) for name, value in want.items()}
    assert all(np.isnan(value) for value in metric.compute(metric.init(), {}).values())


def test_loss_is_cross_entropy_with_soft_targets() -> None:
    targets = RNG.dirichlet(np.ones(7), 12).astype(np.float32)
    parts, count = Classification(7).loss(jnp.asarray(LOGITS), jnp.asarray(targets), jnp.asarray(WEIGHT))
    (total,) = parts.values()
    want = -(targets * log_softmax(LOGITS)).sum(-1)[:9].sum()
    assert (float(total), float(count)) == (pytest.approx(want, rel=1e-5), 9.0)


def test_an_infinite_padded_example_does_not_spoil_the_loss() -> None:
    logits = jnp.asarray(LOGITS).at[11].set(jnp.nan)
    targets = jax.nn.one_hot(LABELS, 7)
    task = Classification(7)
    value, gradient = jax.value_and_grad(lambda x: task.loss(x, targets, jnp.asarray(WEIGHT))[0]["labels"])(logits)
    assert np.isfinite(float(value))
    assert np.isfinite(np.asarray(gradient)[:11]).all()


def test_metrics_equal_a_sort() -> None:
    batch = {"label": jnp.asarray(LABELS), "weight": jnp.asarray(WEIGHT)}
    got = {k: tuple(map(float, v)) for k, v in counted(Classification(7), jnp.asarray(LOGITS), batch).items()}
    order = np.argsort(-LOGITS, axis=-1)
    rank = (order == LABELS[:, None]).argmax(-1)[:9]
    assert got["top1"] == ((rank == 0).sum(), 9)
    assert got["top5"] == ((rank < 5).sum(), 9)
    want = -log_softmax(LOGITS)[np.arange(12), LABELS][:9].sum()
    assert got["loss"] == (pytest.approx(want, rel=1e-5), 9)


@pytest.mark.slow
def test_top5_of_three_classes_is_top3() -> None:
    batch = {"label": jnp.arange(3), "weight": jnp.ones(3)}
    got = counted(Classification(3), jnp.eye(3), batch)
    assert float(got["top5"][0]) == 3


def test_nan_logits_are_no_hit() -> None:
    batch = {"label": jnp.zeros(2, jnp.int32), "weight": jnp.ones(2)}
    got = jax.jit(lambda outputs, batch: counted(Classification(3), outputs, batch))(jnp.full((2, 3), jnp.nan), batch)
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
    def score(metrics: dict[str, float]) -> tuple[float, ...]:
        return measure_score(metrics, Classification.measures, "top1")

    low, high = {"top1": 0.5, "loss": 0.1}, {"top1": 0.6, "loss": 0.9}
    assert score(high) > score(low)
    assert score({"top1": 0.6, "loss": 0.8}) > score(high) > score({"top1": 0.6, "loss": float("nan")})


def test_decode_names_the_best_first() -> None:
    task = Classification.from_artifact(["a", "b", "c"], {})
    (found,) = task.results(jnp.asarray([[0.0, 2.0, 1.0]]), ["x.png"], top_k=2)
    assert (found.source, found.classes, found.error) == ("x.png", ("b", "c"), None)
    assert found.probabilities[0] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)), rel=1e-5)
    assert found.rows()[0] == ("b", f"{100 * found.probabilities[0]:.2f} %")
    assert [line.text for line in found.caption()] == ["b", "c"]
    assert found.json() == {
        "source": "x.png",
        "classes": ["b", "c"],
        "probabilities": list(found.probabilities),
        "error": None,
    }
    assert len(task.results(jnp.zeros((1, 3)), ["x"], top_k=9)[0].classes) == 3
    failed = task.failure("y.png", "the file is empty")
    assert (failed.rows(), failed.caption(), failed.json()["classes"]) == ([], [], [])


def test_any_measure_can_choose_the_best() -> None:
    first, second = {"top1": 0.5, "top5": 0.9, "loss": 0.3}, {"top1": 0.6, "top5": 0.8, "loss": 0.4}
    for best, better, other in (("top1", second, first), ("top5", first, second), ("loss", first, second)):
        scores = [measure_score(metrics, Classification.measures, best) for metrics in (better, other)]
        assert scores[0] > scores[1]
    assert check_best(None, Classification.measures, "top1") == "top1"
    with pytest.raises(RequestError, match=r"validate\.best=top_1: one of top1, top5, loss, .*; did you mean 'top1'"):
        check_best("top_1", Classification.measures, "top1")


def test_options_of_results_are_checked() -> None:
    check_result_options(Classification, {"top_k": 1})
    with pytest.raises(RequestError, match="top_k=0: at least 1"):
        check_result_options(Classification, {"top_k": 0})
    with pytest.raises(RequestError, match="threshold does not go with the task classification; it has top_k"):
        check_result_options(Classification, {"threshold": 1})


def test_verdicts_are_those_of_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    labels = np.concatenate([rng.integers(0, 4, 37), [5, 5, 5]]).astype(np.int32)  # no picture of the classes 4 and 6
    logits = rng.normal(size=(40, 7)).astype(np.float32) + 2 * np.eye(7, dtype=np.float32)[labels]
    metric = Classification(7).metric
    padded = jnp.asarray(np.concatenate([logits, np.full((3, 7), np.nan, np.float32)]))
    batch = {"label": jnp.asarray([*labels, 0, 1, 2]), "weight": jnp.asarray([1.0] * 40 + [0.0] * 3)}
    found = metric.compute(jax.jit(metric.update)(metric.init(), padded, batch), {})
    said, there = logits.argmax(-1), np.unique(labels)
    either = np.unique([*labels, *said])
    precision = reference.precision_score(labels, said, labels=there, average="macro", zero_division=0)
    want = {
        "top1": (said == labels).mean(),
        "balanced_accuracy": reference.recall_score(labels, said, labels=there, average="macro"),
        "macro_precision": precision,
        "macro_f1": reference.f1_score(labels, said, labels=either, average="macro"),
        "weighted_f1": reference.f1_score(labels, said, average="weighted"),
        "kappa": reference.cohen_kappa_score(labels, said),
        "quadratic_kappa": reference.cohen_kappa_score(labels, said, weights="quadratic", labels=range(7)),
    }
    assert {name: found[name] for name in want} == {
        name: pytest.approx(value, rel=1e-5) for name, value in want.items()
    }
    probability = np.exp(log_softmax(logits)).max(-1)
    gaps = [
        abs(((said == labels) - probability)[np.minimum(probability * 15, 14).astype(int) == place].sum())
        for place in range(15)
    ]
    assert found["ece"] == pytest.approx(sum(gaps) / 40, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_aurocs_are_those_of_scikit_learn(seed: int) -> None:
    """On probabilities of a few values, so that many are equal; of a class that is missing there is none."""
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    scores = rng.multinomial(7, [0.25] * 4, size=60) + 3 * np.eye(4)[labels]
    scores /= scores.sum(1, keepdims=True)
    found = aurocs(scores, labels)
    assert found.tolist() == pytest.approx([reference.roc_auc_score(labels == i, scores[:, i]) for i in range(4)])
    assert found.mean() == pytest.approx(reference.roc_auc_score(labels, scores, multi_class="ovr"))
    assert len(np.unique(scores[:, 0])) < 30
    missing = aurocs(scores, np.where(labels == 2, 1, labels))
    assert np.isnan(missing).tolist() == [False, False, True, False]
    scores[5, 1] = np.nan
    assert np.isnan(aurocs(scores, labels)[1])


def test_auroc_is_measured_and_chosen_by() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 50).astype(np.int32)
    logits = rng.normal(size=(50, 3)).astype(np.float32) + np.eye(3, dtype=np.float32)[labels]
    metric = Classification(3).metric
    batch = {"label": jnp.asarray(labels), "weight": jnp.ones(50)}
    state, rows = jax.jit(lambda x: metric.update_and_collect(metric.init(), x, batch))(logits)
    found = metric.compute(state, jax.tree.map(np.asarray, rows))["auroc"]
    want = reference.roc_auc_score(labels, np.exp(log_softmax(logits)), multi_class="ovr")
    assert found == pytest.approx(want, rel=1e-6)
    assert check_best("auroc", Classification.measures, "top1") == "auroc"
    metric.check_best("auroc")
    many = Classification(1001).metric
    assert not many.collects
    with pytest.raises(RequestError, match=r"validate.best=auroc: is measured for up to 1,000 classes, .* are 1,001"):
        many.check_best("auroc")


def test_one_class_alone_has_no_kappa() -> None:
    metric = Classification(2).metric
    batch = {"label": jnp.zeros(3, jnp.int32), "weight": jnp.ones(3)}
    found = metric.compute(metric.update(metric.init(), jnp.array([[5.0, 0]] * 3), batch), {})
    assert (found["balanced_accuracy"], found["macro_f1"]) == (1, 1)
    assert np.isnan(found["kappa"])
    assert np.isnan(found["quadratic_kappa"])
