"""How a classification is measured: by sums over the examples, without a matrix of all classes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crosscale.contracts import Array
from crosscale.errors import RequestError
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch, Metric, State

BINS = 15  # of the calibration error
MOST_RANKED = 1000  # classes; a ranking keeps every probability, 200 MB for 50,000 pictures with that many

MEASURES: Mapping[str, Measure] = {
    "top1": Measure("top-1", True, share=True, of_pictures=True),
    "top5": Measure("top-5", True, share=True, of_pictures=True),
    "loss": Measure("loss", False, unit="nats"),
    "balanced_accuracy": Measure("balanced accuracy", True, share=True),
    "macro_precision": Measure("macro precision", True, share=True),
    "macro_f1": Measure("macro F1", True, share=True),
    "weighted_f1": Measure("weighted F1", True, share=True),
    "auroc": Measure("AUROC", True, share=True),
    "kappa": Measure("Cohen's kappa", True),
    "quadratic_kappa": Measure("quadratic kappa", True),
    "ece": Measure("calibration error", False, share=True),
}
_MEANS = ("loss", "top1", "top5")


class Verdicts(Metric):
    """Cross-entropy with the hard label, accuracies, F1, kappa, calibration error, and the area under the ROC curve.

    The state holds sums: for each class how many pictures have it rightly, are said to have it, and have it; for each
    bin of confidence the pictures, their confidence and how many are right. Kappa and the quadratic kappa need no more,
    because what chance would give follows from the classes' sums. The area ranks the pictures, for which every
    example's probabilities are kept, of up to `MOST_RANKED` classes.
    """

    def __init__(self, classes: int, temperature: float = 1.0) -> None:
        """
        Args:
          temperature: the logits are divided by it.
        """
        self._classes, self._depth, self._temperature = classes, min(5, classes), temperature
        self.collects = classes <= MOST_RANKED

    def check_best(self, name: str) -> None:
        """Raises RequestError for the AUROC of more than `MOST_RANKED` classes."""
        if name == "auroc" and not self.collects:
            raise RequestError(
                f"validate.best=auroc: is measured for up to {MOST_RANKED:,} classes, and there are {self._classes:,}"
            )

    def init(self) -> State:
        """(sum, count) of the means, (classes,) and (bins,) sums, and "squared", of the squared distances in label
        order."""
        classes, bins = np.zeros(self._classes, np.float32), np.zeros(BINS, np.float32)
        return {
            **{name: (np.float32(0), np.float32(0)) for name in _MEANS},
            **dict.fromkeys(("right", "said", "real"), classes),
            **dict.fromkeys(("bin_count", "bin_confidence", "bin_right"), bins),
            "squared": np.zeros(1, np.float32),
        }

    def update(self, state: State, outputs: Array, batch: DeviceBatch) -> State:
        label, weight = batch["label"], batch["weight"]
        logits = outputs.astype(jnp.float32) / self._temperature
        _, best = jax.lax.top_k(logits, self._depth)
        # A NaN among the logits must not pass for a hit, whatever order top_k puts it in.
        hits = (best == label[:, None]) & jnp.isfinite(logits).all(-1)[:, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        means = {"loss": losses, "top1": hits[:, 0], "top5": hits.any(-1)}
        said, right = best[:, 0], jnp.where(hits[:, 0], weight, 0.0)
        confidence = jnp.nan_to_num(jax.nn.softmax(logits, axis=-1).max(-1))
        place = jnp.clip((confidence * BINS).astype(jnp.int32), 0, BINS - 1)
        added = {
            "right": _summed(label, right, self._classes),
            "said": _summed(said, weight, self._classes),
            "real": _summed(label, weight, self._classes),
            "bin_count": _summed(place, weight, BINS),
            "bin_confidence": _summed(place, weight * confidence, BINS),
            "bin_right": _summed(place, right, BINS),
            "squared": (weight * jnp.square((said - label).astype(jnp.float32))).sum()[None],
        }
        count = weight.sum()
        # where, not only a product: a padded example's value may be infinite, and 0 * inf is NaN
        sums = {name: jnp.where(weight > 0, values * weight, 0.0).sum() for name, values in means.items()}
        return {
            **{name: (state[name][0] + total, state[name][1] + count) for name, total in sums.items()},
            **{name: state[name] + value for name, value in added.items()},
        }

    def collect(self, outputs: Array, batch: DeviceBatch) -> dict[str, Array]:
        """The most probable class and its probability; where they are ranked, all probabilities and the label."""
        probabilities = jax.nn.softmax(outputs.astype(jnp.float32) / self._temperature, axis=-1)
        found: dict[str, Array] = {"predicted": probabilities.argmax(-1), "probability": probabilities.max(-1)}
        return {**found, "probabilities": probabilities, "truth": batch["label"]} if self.collects else found

    def compute(self, state: State, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The numbers of `MEASURES`; NaN where nothing was counted, kappas also where all pictures are of one class.

        The AUROC is the mean over the classes that some pictures have and others lack; NaN without rows.
        """
        total = float(state["loss"][1])
        if not total:
            return dict.fromkeys(MEASURES, float("nan"))
        right, said, real = (np.asarray(state[name], np.float64) for name in ("right", "said", "real"))
        there = real > 0
        f1 = 2 * right / np.maximum(said + real, 1e-12)
        chance = float((said * real).sum()) / total**2
        distances = expected_distance(said, real) / total
        squared = float(np.asarray(state["squared"])[0])
        gaps = np.abs(np.asarray(state["bin_confidence"], np.float64) - np.asarray(state["bin_right"], np.float64))
        return {
            **{name: float(state[name][0]) / total for name in _MEANS},
            "balanced_accuracy": float((right[there] / real[there]).mean()),
            "macro_precision": float((right / np.maximum(said, 1e-12))[there].mean()),
            "macro_f1": float(f1[there | (said > 0)].mean()),
            "weighted_f1": float((f1 * real).sum() / total),
            "auroc": _mean(aurocs(rows["probabilities"], rows["truth"])) if "probabilities" in rows else float("nan"),
            "kappa": (right.sum() / total - chance) / (1 - chance) if chance < 1 else float("nan"),
            "quadratic_kappa": 1 - squared / distances if distances > 0 else float("nan"),
            "ece": float(gaps.sum() / total),
        }


def aurocs(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(classes,) the area under each class's ROC curve, the class against all others.

    It is the chance that a picture of the class has a higher probability of it than one of another class, equal ones
    counting half. NaN for a class without pictures, or with all, and where a probability is not a number.

    Args:
      probabilities: (N, classes).
      labels: (N,).
    """
    found = np.full(probabilities.shape[1], np.nan)
    columns = np.ascontiguousarray(probabilities.T)
    for label in np.flatnonzero(np.isfinite(columns).all(1)):
        scores = columns[label]
        own, ranked = scores[labels == label], np.sort(scores)
        others = len(scores) - len(own)
        if len(own) and others:
            # How many of all pictures rank below each picture of the class, and how many no higher; the class's own
            # pairs come out even, whatever their order.
            below = np.searchsorted(ranked, own, "left").sum() + np.searchsorted(ranked, own, "right").sum()
            found[label] = (below - len(own) ** 2) / (2 * len(own) * others)
    return found


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def expected_distance(said: np.ndarray, real: np.ndarray) -> float:
    """The sum over all pairs of classes of said * real * squared distance."""
    place = np.arange(len(said), dtype=np.float64)
    n, m = said.sum(), real.sum()
    mean = (said * place).sum(), (real * place).sum()
    square = (said * place**2).sum(), (real * place**2).sum()
    return float(square[0] * m - 2 * mean[0] * mean[1] + n * square[1])


def _summed(place: Array, values: Any, length: int) -> Array:
    return jnp.zeros(length, jnp.float32).at[place].add(values)
