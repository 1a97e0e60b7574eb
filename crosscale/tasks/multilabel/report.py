"""The report's sections of a multi-label classification: a table of the labels, and the worst pictures."""

from collections.abc import Sequence

import numpy as np

from crosscale.tasks.multilabel.metric import average_precision, f1, hits
from crosscale.tasks.sections import Examined, Gallery, Picture, Section, Table

WORST = 24  # pictures
MANY_LABELS = 20  # from here on the table can be filtered


def sections(labels: Sequence[str], thresholds: Sequence[float], examined: Examined) -> list[Section]:
    """The sections about the held-out examples."""
    return [
        Section("labels", "Labels", "Labels", [_table(labels, thresholds, examined)]),
        Section("worst", "Worst", "Largest losses", [_gallery(labels, thresholds, examined)]),
    ]


def telling(examined: Examined) -> list[int]:
    """Positions in the source of the pictures with the largest losses."""
    return [int(examined.index[row]) for row in _worst(examined)]


def _table(labels: Sequence[str], thresholds: Sequence[float], examined: Examined) -> Table:
    scores, truth = examined.rows["probability"].astype(np.float64), examined.rows["truth"] > 0.5
    right, said, real = hits(scores, truth, thresholds)
    both = f1(right, said, real)
    rows = []
    for i, name in enumerate(labels):
        shares = (right[i] / said[i] if said[i] else np.nan, right[i] / real[i] if real[i] else np.nan, both[i])
        ap = average_precision(scores[:, i], truth[:, i])
        numbers = [_percent(value) for value in (ap, *shares)]
        rows.append((ap, (name, *numbers, f"{thresholds[i]:.3f}", str(int(real[i])), str(int(said[i])))))
    rows.sort(key=lambda row: (not np.isfinite(row[0]), row[0]))
    return Table(
        id="labels-table",
        label="labels",
        title="Labels, lowest average precision first",
        columns=("label", "average precision", "precision", "recall", "F1", "threshold", "pictures", "said"),
        numeric=frozenset(range(1, 8)),
        rows=[cells for _, cells in rows],
        filter_label="filter labels" if len(labels) > MANY_LABELS else "",
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else "\N{EN DASH}"


def _gallery(labels: Sequence[str], thresholds: Sequence[float], examined: Examined) -> Gallery:
    found = []
    for row in _worst(examined):
        place = int(examined.index[row])
        said = examined.rows["probability"][row] >= np.asarray(thresholds)
        true, taken = words(labels, examined.rows["truth"][row] > 0.5), words(labels, said)
        found.append(Picture(examined.picture(place), examined.name(place), true, f"taken for {taken}"))
    return Gallery(found, "No held-out picture counts.")


def _worst(examined: Examined) -> np.ndarray:
    """Rows of the largest binary cross-entropies, the largest first."""
    scores = np.clip(examined.rows["probability"].astype(np.float64), 1e-12, 1 - 1e-12)
    truth = examined.rows["truth"] > 0.5
    losses = -np.where(truth, np.log(scores), np.log1p(-scores)).sum(-1)
    return np.argsort(-losses, kind="stable")[:WORST]


def words(labels: Sequence[str], has: np.ndarray) -> str:
    """The labels that a picture has, or "none"."""
    return ", ".join(name for name, there in zip(labels, has, strict=True) if there) or "none"
