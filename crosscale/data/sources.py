"""Data by its address: the shipped digits, or a folder of images."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from crosscale.contracts import Record, Source
from crosscale.data.image_folder import open_folder, stratified_split
from crosscale.errors import RequestError


class ArraySource:
    """Decoded pictures in memory.

    Attributes:
      classes: class names, in label order.
      ids: one per example.
      images: (N, H, W) or (N, H, W, C) uint8.
      labels: (N,) int32.
    """

    def __init__(
        self, classes: Iterable[str], ids: Iterable[str], images: np.ndarray, labels: np.ndarray
    ) -> None:
        self.classes: Sequence[str] = tuple(classes)
        self.ids = list(ids)
        self.images = images
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        return Record(self.ids[index], self.images[index], int(self.labels[index]))


def open_source(
    data_dir: str | Path,
    split: Literal["train", "val"],
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Source:
    """Opens one split of a data set.

    Args:
      data_dir: "digits" (the 1,797 handwritten digits that ship with scikit-learn), a folder with train/
        and val/ that each hold one folder per class, or a folder of class folders.
      split: which part.
      val_fraction: the share of each class that is held out where the data comes as one part, in (0, 1).
      seed: of that split.

    Raises:
      RequestError: the data is missing, has no images, or its classes do not fit together.
    """
    if split not in ("train", "val"):
        raise RequestError(f"split={split!r}: train or val")
    if not 0 < val_fraction < 1:
        raise RequestError(f"val_fraction={val_fraction}: the share that is held out lies between 0 and 1")
    if str(data_dir) == "digits":
        return _digits(split, val_fraction, seed)
    return open_folder(Path(data_dir).expanduser(), split, val_fraction, seed)


def _digits(split: str, val_fraction: float, seed: int) -> ArraySource:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RequestError(
            "the digits ship with scikit-learn, which is not installed: pip install 'crosscale[digits]'"
        ) from None
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    # In the order in which the same pictures stand in an image folder, so that both train alike.
    order = np.argsort(data.target, kind="stable")
    ids = [f"digits/{index:04d}" for index in order]
    images, labels = images[order], data.target[order]
    held_out = stratified_split(ids, labels, val_fraction, seed)
    chosen = np.flatnonzero(held_out if split == "val" else ~held_out)
    classes = [str(name) for name in data.target_names]
    return ArraySource(classes, [ids[i] for i in chosen], images[chosen], labels[chosen])
