"""The report's sections of a segmentation: overlap per class, the confusion matrix, the worst and best pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from crosscale.tasks.sections import Confusion, Examined, Gallery, Picture, Section, Table
from crosscale.tasks.segmentation.metric import shares
from crosscale.tasks.segmentation.result import coloured

PICTURES = 6  # in a gallery
WIDTH = 360  # of each of the three pictures side by side, at most
MANY_CLASSES = 20  # from here on the table can be filtered


def sections(labels: Sequence[str], palette: np.ndarray, examined: Examined) -> list[Section]:
    """The sections about the held-out examples."""
    order = _by_overlap(examined)
    worst, best = order[:PICTURES], order[::-1][:PICTURES]
    return [
        Section("classes", "Classes", "Classes", [_per_class(labels, examined)]),
        Section(
            "confusion",
            "Confusion",
            "Confusion matrix",
            [Confusion(labels, np.asarray(examined.state["confusion"])[:, : len(labels)].astype(np.int64))],
            note="Pixels of all held-out pictures.",
        ),
        Section(
            "worst",
            "Worst",
            "Least overlap",
            [_gallery(labels, palette, examined, worst)],
            note="The picture, its true classes, and the predicted ones.",
        ),
        Section("best", "Best", "Most overlap", [_gallery(labels, palette, examined, best)]),
    ]


def telling(examined: Examined) -> list[int]:
    """Positions in the source of the pictures of the least overlap."""
    return [int(examined.index[row]) for row in _by_overlap(examined)]


def _overlaps(examined: Examined) -> np.ndarray:
    """(N,) mean intersection over union of each picture's classes; NaN where nothing counts."""
    rows = examined.rows
    iou, _ = shares(rows["intersect"].astype(np.float64), rows["true"], rows["predicted"])
    known = np.isfinite(iou)
    return np.where(known.any(1), np.where(known, iou, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)


def _by_overlap(examined: Examined) -> list[int]:
    """Rows from the least overlap to the most."""
    values = _overlaps(examined)
    counts = np.flatnonzero(np.isfinite(values))
    return [int(row) for row in counts[np.argsort(values[counts], kind="stable")]]


def _per_class(labels: Sequence[str], examined: Examined) -> Table:
    sums = {name: examined.rows[name].astype(np.int64).sum(0) for name in ("intersect", "true", "predicted")}
    iou, accuracy = shares(sums["intersect"].astype(np.float64), sums["true"], sums["predicted"])
    total = max(int(sums["true"].sum()), 1)
    found = list(zip(labels, iou, accuracy, sums["true"] / total, strict=True))
    ordered = sorted(found, key=lambda row: (not np.isfinite(row[1]), row[1]))
    return Table(
        id="per-class",
        label="intersection over union per class",
        title="Intersection over union per class, lowest first",
        columns=("class", "IoU", "accuracy", "share of the true pixels"),
        numeric=frozenset({1, 2, 3}),
        rows=[(name, _percent(a), _percent(b), _percent(share)) for name, a, b, share in ordered],
        bars=[f"{100 * value:.1f}" if np.isfinite(value) else "0" for _, value, _, _ in ordered],
        filter_label="filter classes" if len(ordered) > MANY_CLASSES else "",
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else "no pixels"


def _gallery(labels: Sequence[str], palette: np.ndarray, examined: Examined, rows: Sequence[int]) -> Gallery:
    values, pictures = _overlaps(examined), []
    for row in rows:
        position = int(examined.index[row])
        picture = Image.fromarray(np.asarray(examined.picture(position))[..., :3].squeeze())
        masks = np.asarray(examined.target(position)), examined.result(position).mask
        parts = [_small(part) for part in (picture.convert("RGB"), *(coloured(picture, m, palette) for m in masks))]
        pixels = np.concatenate([part[:, :, :] for part in _equal(parts)], 1)
        said = f"mIoU {100 * values[row]:.1f} %"
        pictures.append(Picture(pixels, examined.name(position), _names(labels, masks[0]), said))
    return Gallery(pictures, "No held-out picture counts.")


def _small(img: Image.Image) -> Image.Image:
    factor = min(1.0, WIDTH / img.width)
    return img.resize((max(1, round(img.width * factor)), max(1, round(img.height * factor))))


def _equal(parts: Sequence[Image.Image]) -> list[np.ndarray]:
    """The parts at one height and width: the mask has the picture's own size, the picture that of the network."""
    size = parts[-1].size
    return [np.asarray(part.resize(size)) for part in parts]


def _names(labels: Sequence[str], mask: np.ndarray) -> str:
    counts = np.bincount(mask.ravel(), minlength=256)[: len(labels)]
    largest = np.argsort(-counts, kind="stable")[:3]
    return ", ".join(labels[i] for i in largest if counts[i])
