"""How far a classification's figures may be off because the held-out pictures are few: percentile bootstrap."""

from collections.abc import Mapping

import numpy as np

from crosscale.tasks.classification.metric import MEASURES

DRAWS = 1000
LEVEL = 0.95


def intervals(counts: np.ndarray, draws: int = DRAWS) -> Mapping[str, tuple[float, float, float]]:
    """Top-1, balanced accuracy and macro F1 with the ends of their 95 % intervals: (figure, lower, upper) by name.

    The held-out pictures are drawn again, as many, with replacement; a figure's interval holds 95 % of what it is then
    (Efron, 1979). The draws are the same each time.

    Args:
      counts: (classes, classes), rows are the truth and columns what was predicted; a picture at least.
    """
    truth, said = np.nonzero(counts)
    pairs = counts[truth, said].astype(np.float64)
    drawn = np.random.default_rng(0).multinomial(int(pairs.sum()), pairs / pairs.sum(), size=draws)
    found = _figures(np.concatenate([pairs[None], drawn]), truth, said, len(counts))
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return {
        name: (float(values[0]), float(np.quantile(values[1:], ends[0])), float(np.quantile(values[1:], ends[1])))
        for name, values in found.items()
    }


def rows(counts: np.ndarray) -> list[tuple[str, str, str, str]]:
    """Cells of a table: the figure's name, its value, and the ends of its interval."""
    cells = []
    for name, (value, lower, upper) in intervals(counts).items():
        shown = MEASURES[name].shown
        cells.append((MEASURES[name].label, shown(value), shown(lower), shown(upper)))
    return cells


def _figures(pairs: np.ndarray, truth: np.ndarray, said: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """(draws,) of each figure.

    Args:
      pairs: (draws, P) how many pictures each pair of a true and a said class has.
    """
    real, taken, right = (np.zeros((len(pairs), classes)) for _ in range(3))
    for column in range(pairs.shape[1]):
        real[:, truth[column]] += pairs[:, column]
        taken[:, said[column]] += pairs[:, column]
        if truth[column] == said[column]:
            right[:, truth[column]] += pairs[:, column]
    there, either = real > 0, real + taken > 0
    recall = np.where(there, right / np.maximum(real, 1), 0.0)
    f1 = np.where(either, 2 * right / np.maximum(real + taken, 1), 0.0)
    return {
        "top1": right.sum(1) / real.sum(1),
        "balanced_accuracy": recall.sum(1) / there.sum(1),
        "macro_f1": f1.sum(1) / either.sum(1),
    }
