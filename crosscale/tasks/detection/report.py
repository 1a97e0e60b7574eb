"""The report's sections of a detector: precision per class, the worst and best pictures with their true boxes."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from crosscale.data.box_drawing import class_colours, draw_boxes
from crosscale.data.coco_masks import bitmap
from crosscale.tasks.detection.evaluation import Evaluation, evaluate_boxes, evaluate_masks
from crosscale.tasks.detection.masks import drawn_mask
from crosscale.tasks.detection.metric import as_coco, masks_as_coco
from crosscale.tasks.sections import Examined, Gallery, Picture, Section, Table

PICTURES = 6  # in a gallery
SIDE = 420  # of each of the two pictures side by side, at most
LARGEST = 3.0  # what a small picture is enlarged by
MANY_CLASSES = 20  # from here on the table can be filtered
SHOWN = 0.3  # boxes of this score and more are drawn and counted in a picture's agreement
OVERLAP = 0.5  # from which a box is right

Rows = Mapping[str, np.ndarray]


def sections(labels: Sequence[str], examined: Examined) -> list[Section]:
    """The sections about the held-out examples."""
    agreement = agreements(examined.rows)
    order = _by_agreement(agreement)
    note = f"What is true, and what was found with {100 * SHOWN:.0f} % and more. Crowds are dashed."
    tables = [_per_class(labels, examined.rows)]
    if "masks" in examined.rows:
        tables.append(_per_class_masks(labels, examined))
    return [
        Section("classes", "Classes", "Classes", tables),
        Section(
            "worst",
            "Worst",
            "Least agreement",
            [_gallery(labels, examined, agreement, order[:PICTURES])],
            note=note,
        ),
        Section(
            "best", "Best", "Most agreement", [_gallery(labels, examined, agreement, order[::-1][:PICTURES])], note=note
        ),
    ]


def telling(examined: Examined) -> list[int]:
    """Positions in the source of the pictures of the least agreement."""
    return [int(examined.index[row]) for row in _by_agreement(agreements(examined.rows))]


def agreements(rows: Rows) -> np.ndarray:
    """(N,) each picture's share of boxes that agree: right ones over right, wrong and missed ones; NaN without any."""
    found = np.full(len(rows["scores"]), np.nan)
    for i in range(len(found)):
        chosen = rows["scores"][i] >= SHOWN
        real = rows["true_labels"][i] >= 0
        single, crowd = real & ~rows["true_crowd"][i], real & rows["true_crowd"][i]
        boxes, labels = rows["boxes"][i][chosen], rows["labels"][i][chosen]
        alike = labels[:, None] == rows["true_labels"][i][None]
        overlaps = _overlaps(boxes, rows["true_boxes"][i]) * alike
        free, right = single.copy(), np.zeros(len(boxes), bool)
        for place in range(len(boxes)):  # the surest first
            fitting = np.where(free, overlaps[place], 0)
            if len(fitting) and fitting.max() >= OVERLAP:
                free[fitting.argmax()], right[place] = False, True
        excused = ~right & ((_covered(boxes, rows["true_boxes"][i]) * alike)[:, crowd] >= OVERLAP).any(1)
        counted = len(boxes) - excused.sum() + free.sum()
        if counted:
            found[i] = right.sum() / counted
    return found


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.maximum(sides, 0).prod(-1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union."""
    common = _common(a, b)
    return common / np.maximum(_areas(a)[:, None] + _areas(b)[None] - common, 1e-9)


def _covered(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) share of a box of `a` that one of `b` covers."""
    return _common(a, b) / np.maximum(_areas(a)[:, None], 1e-9)


def _by_agreement(values: np.ndarray) -> list[int]:
    """Rows from the least agreement to the most."""
    counts = np.flatnonzero(np.isfinite(values))
    return [int(row) for row in counts[np.argsort(values[counts], kind="stable")]]


def _per_class(labels: Sequence[str], rows: Rows) -> Table:
    found = evaluate_boxes(*as_coco(rows, labels))
    return _class_table(labels, rows, found, "per-class", "average precision per class")


def _per_class_masks(labels: Sequence[str], examined: Examined) -> Table:
    truth, said = masks_as_coco(examined.rows, labels, lambda place, size: examined.target(place))
    name = "average precision of masks per class"
    return _class_table(labels, examined.rows, evaluate_masks(truth, said), "per-class-masks", name)


def _class_table(labels: Sequence[str], rows: Rows, found: Evaluation, id_: str, name: str) -> Table:
    real = (rows["true_labels"] >= 0) & ~rows["true_crowd"]
    objects = np.bincount(rows["true_labels"][real], minlength=len(labels))
    lines = list(zip(labels, found.per_class, found.per_class_50, _recalls(found.precision_50), objects, strict=True))
    ordered = sorted(lines, key=lambda line: (not np.isfinite(line[1]), line[1]))
    return Table(
        id=id_,
        label=name,
        title=f"{name.capitalize()}, lowest first",
        columns=("class", "AP", "AP50", "recall at 0.5", "objects"),
        numeric=frozenset({1, 2, 3, 4}),
        rows=[
            (name, _percent(ap), _percent(half), _percent(recall), f"{n:,}") for name, ap, half, recall, n in ordered
        ],
        bars=[f"{100 * line[1]:.1f}" if np.isfinite(line[1]) else "0" for line in ordered],
        filter_label="filter classes" if len(ordered) > MANY_CLASSES else "",
    )


def _recalls(precision: np.ndarray) -> np.ndarray:
    """(classes,) the largest recall that has a precision, of (101, classes); NaN for a class without objects."""
    reached = (np.nan_to_num(precision) > 0).sum(0) / len(precision)
    return np.where(np.isfinite(precision).any(0), reached, np.nan)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else "no objects"


def _gallery(labels: Sequence[str], examined: Examined, agreement: np.ndarray, chosen: Sequence[int]) -> Gallery:
    colours, pictures, rows = class_colours(len(labels)), [], examined.rows
    for row in chosen:
        position = int(examined.index[row])
        height, width = (int(side) for side in rows["original"][row])
        fed = np.asarray(examined.picture(position))[..., :3].squeeze()
        real = rows["true_labels"][row] >= 0
        shown = rows["scores"][row] >= SHOWN
        picture, factor = _content(fed, rows["fed"][row], (height, width))
        true, said = rows["true_labels"][row][real], rows["labels"][row][shown]
        texts = [f"{labels[label]} {100 * s:.0f} %" for label, s in zip(said, rows["scores"][row][shown], strict=True)]
        boxes = rows["boxes"][row][shown] * factor
        true_masks, said_masks = _masks(examined, row, shown, boxes, (height, width), picture)
        parts = [
            draw_boxes(
                picture,
                rows["true_boxes"][row][real] * factor,
                [labels[label] for label in true],
                [colours[label] for label in true],
                rows["true_crowd"][row][real],
                true_masks,
            ),
            draw_boxes(picture, boxes, texts, [colours[label] for label in said], masks=said_masks),
        ]
        pixels = np.concatenate([np.asarray(part) for part in parts], 1)
        told = f"{100 * agreement[row]:.0f} % agree"
        pictures.append(Picture(pixels, examined.name(position), counted_names(labels, true), told))
    return Gallery(pictures, "No held-out picture has a box.")


def _masks(
    examined: Examined, row: int, shown: np.ndarray, boxes: np.ndarray, original: tuple[int, int], picture: Image.Image
) -> tuple[list[np.ndarray] | None, list[np.ndarray] | None]:
    """The true masks and those of the boxes shown, in pixels of the picture drawn; None for a model without masks."""
    if "masks" not in examined.rows:
        return None, None
    true = [
        np.asarray(Image.fromarray(bitmap(mask, original)).resize(picture.size, Image.Resampling.NEAREST))
        for mask in examined.target(int(examined.index[row])).masks or ()
    ]
    size = picture.height, picture.width
    pairs = zip(examined.rows["masks"][row][shown], boxes, strict=True)
    return true, [drawn_mask(mask, box, size) for mask, box in pairs]


def _content(fed: np.ndarray, size: np.ndarray, original: tuple[int, int]) -> tuple[Image.Image, float]:
    """The picture without what fills it up, at the size to show, and the factor for its own pixels."""
    height, width = (int(side) for side in size)
    factor = min(LARGEST, SIDE / max(original))
    shape = (max(1, round(original[1] * factor)), max(1, round(original[0] * factor)))
    return Image.fromarray(fed[:height, :width]).convert("RGB").resize(shape), factor


def counted_names(labels: Sequence[str], which: np.ndarray) -> str:
    """ "2 dog, 1 cat": the classes by how often they are there; at most four."""
    counts = np.bincount(which, minlength=len(labels)) if len(which) else np.zeros(len(labels), np.int64)
    order = np.argsort(-counts, kind="stable")[:4]
    return ", ".join(f"{counts[i]} {labels[i]}" for i in order if counts[i]) or "nothing"
