"""How sure a classification may say it is: a temperature for its probabilities, and when its answer is "unknown"."""

from dataclasses import dataclass

import numpy as np

from crosscale.errors import RequestError, WorkError
from crosscale.tasks.classification.metric import BINS

RANGE = (0.05, 20.0)  # of temperatures


@dataclass(frozen=True)
class Sure:
    """How many pictures are answered at a threshold, and how many of these rightly.

    Attributes:
      threshold: the least probability that is answered.
      coverage: share of the pictures that are answered.
      precision: share of those that are right.
    """

    threshold: float
    coverage: float
    precision: float


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least cross-entropy (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    Args:
      logits: (N, classes), finite.
      labels: (N,).

    Raises:
      WorkError: no temperature is best, because every picture is right: any sharper one would be better.
    """
    if (logits.argmax(1) == labels).all():
        raise WorkError(
            "every held-out picture is classified correctly, so no temperature is best; calibrate on harder data "
            "(--data-dir)"
        )
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    def loss(log_temperature: float) -> float:
        return log_loss(logits, labels, float(np.exp(log_temperature)))

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean cross-entropy, nats."""
    return float(-_log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def confidence(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N,) the probability of the most probable class."""
    return np.exp(_log_softmax(logits, temperature).max(1))


def _log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    shifted = scaled - scaled.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """The mean gap between confidence and accuracy over bins of confidence; see `Verdicts`."""
    counts, sure, hits = reliability(probability, right)
    return float(np.abs(sure - hits).sum() / max(counts.sum(), 1))


def reliability(probability: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bins,) pictures, sum of confidence, and right ones, of each bin of confidence."""
    place = np.clip((probability * BINS).astype(int), 0, BINS - 1)
    return (
        np.bincount(place, minlength=BINS),
        np.bincount(place, probability, BINS),
        np.bincount(place, right.astype(np.float64), BINS),
    )


def coverages(probability: np.ndarray, right: np.ndarray) -> list[Sure]:
    """What follows from each threshold that is some picture's probability, the highest first."""
    order = np.argsort(-probability, kind="stable")
    ranked, hits = probability[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(np.diff(ranked), -1.0))
    return [Sure(float(ranked[i]), (i + 1) / len(ranked), float(hits[i] / (i + 1))) for i in ends]


def threshold_of(
    probability: np.ndarray, right: np.ndarray, *, precision: float | None, coverage: float | None
) -> Sure:
    """The threshold that answers most pictures at a precision, or at least a share of them.

    Raises RequestError where no threshold reaches the precision, with the best there is.
    """
    found = coverages(probability, right)
    if precision is not None:
        fit = [sure for sure in found if sure.precision >= precision]
        if not fit:
            best = max(found, key=lambda sure: (sure.precision, sure.coverage))
            raise RequestError(
                f"--precision {precision:g}: no threshold reaches it; the best is {best.precision:.4g}, answering "
                f"{100 * best.coverage:.1f} % of the pictures"
            )
        return fit[-1]
    return next(sure for sure in found if sure.coverage >= (coverage or 1.0) - 1e-9)
