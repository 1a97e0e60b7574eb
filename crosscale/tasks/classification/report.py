"""The report's sections of a classification: accuracy per class, the confusion matrix, the surest mistakes."""

from collections.abc import Sequence

import numpy as np

from crosscale.tasks.classification.calibration import coverages, reliability
from crosscale.tasks.classification.intervals import rows
from crosscale.tasks.classification.metric import aurocs
from crosscale.tasks.sections import Confusion, Examined, Gallery, Picture, Scatter, Section, Table

MAX_CONFUSED = 30
MAX_MISTAKES = 24
RISKS = 60  # points of the curve of risks
NOTE = (
    "On the diagonal a probability means what it says; below it the model is surer than it should be. crosscale "
    "calibrate finds a temperature, and the probability below which the answer is unknown."
)
MANY_CLASSES = 20  # from here on the table can be filtered


def sections(labels: Sequence[str], examined: Examined) -> list[Section]:
    """The sections about the held-out examples."""
    counts = confusion(len(labels), examined)
    return [
        Section("confusion", "Confusion", "Confusion matrix", [Confusion(labels, counts)]),
        Section("mistakes", "Mistakes", "Most confident mistakes", [_mistakes(labels, examined)]),
        Section(
            "classes",
            "Classes",
            "Classes",
            [_per_class(labels, counts, _areas(len(labels), examined)), _confused(labels, counts)],
            side_by_side=True,
        ),
        Section("intervals", "Intervals", "How far the figures may be off", [_intervals(counts)]),
        Section(
            "calibration", "Calibration", "How sure, and how often right", _calibration(examined), NOTE, charts=True
        ),
    ]


def _intervals(counts: np.ndarray) -> Table:
    return Table(
        id="figures",
        label="figures with intervals",
        title="95 % intervals, by drawing the held-out pictures again (bootstrap)",
        columns=("figure", "value", "from", "to"),
        numeric=frozenset({1, 2, 3}),
        rows=rows(counts) if counts.any() else [],
        empty="No held-out picture counts.",
    )


def _calibration(examined: Examined) -> list[Scatter]:
    """The reliability diagram, and how many of the answers are wrong at every share of pictures that is answered."""
    sure = examined.rows["probability"].astype(np.float64)
    right = examined.rows["predicted"] == examined.targets["label"]
    counts, confidence, hits = reliability(sure, right)
    there = counts > 0
    bins = 100 * np.stack([confidence[there], hits[there]], -1) / counts[there, None]
    found = coverages(sure, right)
    kept = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, RISKS).astype(int))] if found else []
    risks = np.array([(100 * at.coverage, 100 * (1 - at.precision)) for at in kept], np.float64).reshape(-1, 2)
    return [
        Scatter(
            "Reliability, by bins of confidence; larger dots stand for more images",
            bins,
            "confidence, %",
            "right, %",
            diagonal=True,
            counts=counts[there],
        ),
        Scatter("Risk and coverage, the surest answers first", risks, "pictures answered, %", "of these wrong, %"),
    ]


def confusion(classes: int, examined: Examined) -> np.ndarray:
    """(classes, classes) counts; rows are the truth, columns what was predicted."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (examined.targets["label"], examined.rows["predicted"]), 1)
    return counts


def telling(examined: Examined) -> list[int]:
    """Positions in the source of the most confident mistakes."""
    return [int(examined.index[i]) for i in _surest(examined)]


def most_confused(counts: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    """(truth, predicted, count) of the pairs that were taken for each other most often."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order]
    return [(truth, predicted, int(wrong[truth, predicted])) for truth, predicted in pairs if wrong[truth, predicted]]


def _surest(examined: Examined) -> list[int]:
    """Rows of the mistakes, the most confident first."""
    wrong = np.flatnonzero(examined.rows["predicted"] != examined.targets["label"])
    order = np.lexsort((examined.index[wrong], -examined.rows["probability"][wrong]))
    return [int(i) for i in wrong[order][:MAX_MISTAKES]]


def _areas(classes: int, examined: Examined) -> np.ndarray:
    """(classes,) AUROC of each class; NaN where the pass kept no probabilities."""
    kept = examined.rows.get("probabilities")
    return np.full(classes, np.nan) if kept is None else aurocs(kept, examined.targets["label"])


def _per_class(labels: Sequence[str], counts: np.ndarray, areas: np.ndarray) -> Table:
    columns = (counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist(), areas.tolist())
    found = zip(labels, *columns, strict=True)
    # The lowest accuracy first, classes without a picture last.
    ordered = sorted(found, key=lambda row: (row[2] == 0, row[1] / max(row[2], 1)))
    return Table(
        id="per-class",
        label="accuracy per class",
        title="Accuracy per class, lowest first",
        columns=("class", "right", "accuracy", "precision", "F1", "AUROC"),
        numeric=frozenset({1, 2, 3, 4, 5}),
        rows=[
            (
                name,
                f"{right} of {count}",
                f"{100 * right / count:.1f} %" if count else "no pictures",
                f"{100 * right / said:.1f} %" if said else "\N{EN DASH}",
                f"{200 * right / (said + count):.1f} %" if said + count else "\N{EN DASH}",
                f"{100 * area:.2f} %" if np.isfinite(area) else "\N{EN DASH}",
            )
            for name, right, count, said, area in ordered
        ],
        bars=[f"{100 * right / count:.1f}" if count else "0" for _, right, count, _, _ in ordered],
        filter_label="filter classes" if len(ordered) > MANY_CLASSES else "",
    )


def _confused(labels: Sequence[str], counts: np.ndarray) -> Table:
    return Table(
        id="confused",
        label="most often confused classes",
        title="Most often confused",
        columns=("class", "taken for", "pictures"),
        numeric=frozenset({2}),
        rows=[(labels[t], labels[p], str(count)) for t, p, count in most_confused(counts, MAX_CONFUSED)],
        empty="No picture was taken for another class.",
    )


def _mistakes(labels: Sequence[str], examined: Examined) -> Gallery:
    pictures = []
    for row in _surest(examined):
        position = int(examined.index[row])
        pictures.append(
            Picture(
                pixels=examined.picture(position),
                id=examined.name(position),
                truth=labels[int(examined.targets["label"][row])],
                said=f"taken for {labels[int(examined.rows['predicted'][row])]}",
                more=f"{100 * float(examined.rows['probability'][row]):.1f} % sure",
            )
        )
    return Gallery(pictures, "None: every held-out picture was classified rightly.")
