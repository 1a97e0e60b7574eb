"""Decoded pictures in memory: from an .npz file, or the digits that ship with scikit-learn."""

import gzip
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from crosscale.contracts import Record
from crosscale.data.names import HELD_OUT, SPLITS
from crosscale.data.once import shared
from crosscale.data.split import part_of
from crosscale.errors import RequestError, WorkError

log = logging.getLogger("crosscale.data")

MOST_CLASSES = 1_000_000
# (images, labels) of each split, as the usual files name them; the first pair is a file of one part.
_ONE_PART = (("images", "labels"), ("x", "y"))
_SPLITS = {
    part: tuple(pair for word in words for pair in ((f"{word}_images", f"{word}_labels"), (f"x_{word}", f"y_{word}")))
    for part, words in (("train", SPLITS["train"]), ("val", HELD_OUT))
}


class ArraySource:
    """Decoded pictures in memory.

    Attributes:
      classes: class names, in label order.
      ids: one per example.
      images: (N, H, W) or (N, H, W, C) uint8.
      labels: (N,) int32.
    """

    def __init__(self, classes: Iterable[str], ids: Iterable[str], images: np.ndarray, labels: np.ndarray) -> None:
        self.classes: Sequence[str] = tuple(classes)
        self.ids = list(ids)
        self.images = images
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        return Record(self.ids[index], self.images[index], int(self.labels[index]))

    def record_id(self, index: int) -> str:
        """The picture's name."""
        return self.ids[index]

    def select(self, indices: np.ndarray) -> "ArraySource":
        """The same pictures with only these examples."""
        return ArraySource(self.classes, [self.ids[i] for i in indices], self.images[indices], self.labels[indices])


def open_digits(split: str, val_fraction: float, seed: int) -> ArraySource:
    """The 1,797 handwritten digits of 8 x 8 grey pixels. Raises RequestError."""
    table = _digits_table()
    pixels, target = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    images = np.rint(pixels * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    # In the order that the same pictures have in an image folder, so that both train alike.
    order = np.argsort(target, kind="stable")
    ids = [f"digits/{index:04d}" for index in order]
    whole = ArraySource([str(name) for name in range(10)], ids, images[order], target[order])
    return _part(whole, split, val_fraction, seed, "digits")


@cache
def _digits_table() -> np.ndarray:
    """(1797, 65): the 64 pixels of each digit, and which it is. Raises RequestError.

    From scikit-learn's file itself: importing scikit-learn takes two seconds.
    """
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise RequestError("the digits ship with scikit-learn, which is not installed: pip install 'crosscale[digits]'")
    file = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():  # a version that keeps it elsewhere
        from sklearn.datasets import load_digits

        return np.column_stack(load_digits(return_X_y=True))
    with gzip.open(file, "rt") as lines:
        table: np.ndarray = np.loadtxt(lines, delimiter=",")
    return table


def open_npz(file: Path, split: str, val_fraction: float, seed: int) -> ArraySource:
    """One split of an .npz file.

    It holds images (N, H, W) or (N, H, W, C) uint8 and labels (N,) or (N, 1), counted from 0, as "images" and
    "labels" (a part is held out), or per split as "train_images", "train_labels", "val_images", "val_labels"
    (or "test_..." where there is no "val_..."; or x_train, y_train, x_test, y_test). "classes", optional, names them.

    Raises:
      RequestError: arrays are missing or do not fit together, or a label lies outside the range.
      WorkError: the file is damaged.
    """
    try:
        with _opened(file) as data:
            names = {name.casefold(): name for name in data.files}
            pairs = {part: _pair(names, choices) for part, choices in {"": _ONE_PART, **_SPLITS}.items()}
            if pairs["train"] and pairs["val"]:
                if split == "all":
                    raise RequestError(f"{file}: has a part to train on and one held out; give --split train or val")
                part = split
            elif pairs[""]:
                part = ""
            else:
                raise RequestError(
                    f"{file}: holds {', '.join(sorted(data.files)) or 'nothing'}; expected images and labels, or "
                    "train_images, train_labels, val_images and val_labels"
                )
            images_name, labels_name = pairs[part] or ("", "")
            images, labels = data[images_name], _whole_labels(file, labels_name, data[labels_name])
            classes = [str(name) for name in data[names["classes"]]] if "classes" in names else None
            trained = labels if part != "val" else _whole_labels(file, pairs["train"][1], data[pairs["train"][1]])  # type: ignore[index]
    except (RequestError, MemoryError):
        raise
    except ValueError as error:
        raise RequestError(f"{file}: not an .npz file of plain arrays ({error})") from None
    except Exception as error:  # damage makes zipfile, zlib and NumPy's reader of headers raise anything
        raise WorkError(f"{file}: damaged or cut short ({error or type(error).__name__})") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels) or not len(images):
        raise RequestError(
            f"{file}: {images_name} is {images.dtype} of shape {images.shape} for {len(labels)} labels; "
            "uint8 of shape (N, H, W) or (N, H, W, C) fits"
        )
    if classes is None:
        classes = numbered_classes(f"{file}: {labels_name}", trained, 'give their names as "classes"')
    check_labels(f"{file}: {labels_name}", labels, len(classes))
    source = ArraySource(classes, [f"{images_name}/{index}" for index in range(len(images))], images, labels)
    return source if part else _part(source, split, val_fraction, seed, str(file))


def numbered_classes(where: str, labels: np.ndarray, remedy: str) -> list[str]:
    """ "0", "1", ... up to the largest label, with a warning where no label is 0.

    Args:
      labels: whole numbers, of the part to train on.
      remedy: how the classes get names.

    Raises:
      RequestError: a label is too large to be one of as many classes.
    """
    largest = int(labels.max(initial=-1))
    if largest >= MOST_CLASSES:
        raise RequestError(
            f"{where}: the label {largest:,} would make as many classes; number them from 0, below {MOST_CLASSES:,}, "
            f"or {remedy}"
        )
    if largest > 0 and (least := int(labels.min())) > 0:
        _note_the_start(least, largest, remedy)
    return [str(label) for label in range(largest + 1)]


@shared
def _note_the_start(least: int, largest: int, remedy: str) -> None:
    """Says once for all splits that the first classes are empty."""
    log.warning(
        "the labels are %s to %s, and classes count from 0, so no image is of class 0; if yours count from 1, "
        "subtract 1, or %s",
        f"{least:,}",
        f"{largest:,}",
        remedy,
    )


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
    """Raises RequestError for the first label outside 0..num_classes-1."""
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if bad.size:
        raise RequestError(
            f"{where}: the label {labels[bad[0]]} of example {bad[0]} lies outside 0..{num_classes - 1} "
            f"({bad.size} such); number the {num_classes} classes from 0"
        )


def _opened(file: Path) -> "np.lib.npyio.NpzFile":
    found = np.load(file, allow_pickle=False)
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise RequestError(f"{file}: is a single array (.npy); an .npz file holds pictures and labels")
    return found


def _pair(names: Mapping[str, str], choices: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The first pair that is there, in whatever case, as the file spells it."""
    found = next((pair for pair in choices if names.keys() >= set(pair)), None)
    return None if found is None else (names[found[0]], names[found[1]])


def _whole_labels(file: Path, name: str, labels: np.ndarray) -> np.ndarray:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise RequestError(f"{file}: {name} is {labels.dtype} of shape {labels.shape}; whole numbers of shape (N,) fit")
    return flat.astype(np.int64)


def _part(whole: ArraySource, split: str, val_fraction: float, seed: int, where: str) -> ArraySource:
    return part_of(whole, whole.ids, whole.labels, split, val_fraction, seed, where)
