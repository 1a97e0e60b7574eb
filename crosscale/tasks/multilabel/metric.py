"""How a multi-label classification is measured: average precision, and F1 at a threshold for each label."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crosscale.contracts import Array
from crosscale.tasks.metric import DeviceBatch, Metric, State

TAGS = "tags"  # name of the targets' array in a batch
PLAIN = 0.5  # the threshold of a label about which nothing is known


class Ranking(Metric):
    """Mean average precision, macro and micro F1, and the binary cross-entropy, mean over the labels.

    The thresholds are given, or each label takes the one of its best F1 on the same pictures; those are among the
    numbers, as "threshold/<label>".
    """

    collects = True

    def __init__(self, labels: Sequence[str], thresholds: Sequence[float] | None = None) -> None:
        self._labels, self._thresholds = tuple(labels), thresholds

    def init(self) -> State:
        """(sum of losses, count)."""
        return {"loss": (np.float32(0), np.float32(0))}

    def update(self, state: State, outputs: Array, batch: DeviceBatch) -> State:
        weight = batch["weight"]
        losses = optax.sigmoid_binary_cross_entropy(outputs.astype(jnp.float32), batch[TAGS]).mean(-1)
        total, count = state["loss"]
        return {"loss": (total + jnp.where(weight > 0, losses * weight, 0.0).sum(), count + weight.sum())}

    def collect(self, outputs: Array, batch: DeviceBatch) -> dict[str, Array]:
        """The probabilities and the truth, (B, labels) each."""
        return {"probability": jax.nn.sigmoid(outputs.astype(jnp.float32)), "truth": batch[TAGS]}

    def compute(self, state: State, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """ "map", "macro_f1", "micro_f1", "loss", and of each label "ap/<label>" and, where it was chosen here,
        "threshold/<label>"."""
        total, count = state["loss"]
        if not count:
            return dict.fromkeys(("map", "macro_f1", "micro_f1", "loss"), float("nan"))
        scores, truth = np.asarray(rows["probability"], np.float64), np.asarray(rows["truth"]) > 0.5
        each = [average_precision(scores[:, i], truth[:, i]) for i in range(len(self._labels))]
        limits = self._thresholds
        found: dict[str, float] = {}
        if limits is None:
            limits = [best_threshold(scores[:, i], truth[:, i]) for i in range(len(self._labels))]
            found = {f"threshold/{name}": limit for name, limit in zip(self._labels, limits, strict=True)}
        counts = hits(scores, truth, limits)
        return {
            "map": _mean(each),
            "macro_f1": _mean(f1(*counts)),
            "micro_f1": float(f1(*(part.sum() for part in counts))),
            "loss": float(total / count),
            **{f"ap/{name}": value for name, value in zip(self._labels, each, strict=True)},
            **found,
        }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Sum over the ranks of precision times the gain in recall; equal scores share a rank. NaN without a positive.

    Args:
      scores: (N,).
      truth: (N,) bool.
    """
    if not truth.any():
        return float("nan")
    _, right, taken = _ranked(scores, truth)
    gain = np.diff(np.concatenate([[0], right]))
    return float((right / taken * gain).sum() / truth.sum())


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of the best F1, in the middle between two scores; 0.5 without a positive or a negative."""
    if not truth.any() or truth.all() or not np.isfinite(scores).all():
        return PLAIN
    ranked, right, taken = _ranked(scores, truth)
    best = int(np.argmax(2 * right / (taken + truth.sum())))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def hits(scores: np.ndarray, truth: np.ndarray, limits: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels,) how many pictures have each label rightly, are said to have it, and have it."""
    said = scores >= np.asarray(limits)
    return (said & truth).sum(0), said.sum(0), truth.sum(0)


def f1(right: Any, said: Any, real: Any) -> np.ndarray:
    """2 * right / (said + real); NaN where there is neither."""
    both = np.asarray(said + real, np.float64)
    return np.where(both > 0, 2 * np.asarray(right) / np.maximum(both, 1), np.nan)


def _ranked(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores, the highest first; how many of those up to each are right, and how many there are."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]), -1.0))
    return scores[order][ends], np.cumsum(truth[order])[ends], ends + 1


def _mean(values: Any) -> float:
    known = [value for value in np.asarray(values, np.float64) if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
