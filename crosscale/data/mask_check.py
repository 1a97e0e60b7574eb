"""What is wrong with pictures and masks, and how many pixels each class has: of a few before training, or of all."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from crosscale.contracts import Record
from crosscale.data.decode import BadImage, decode
from crosscale.data.mask_meaning import BINARY, spread
from crosscale.data.mask_read import IGNORED, MaskReading, counts_of
from crosscale.errors import RequestError


class Masks(Protocol):
    """A source of pictures with masks, as this file needs it (`mask_folder.MaskSource`)."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def reading(self) -> MaskReading: ...

    @property
    def without(self) -> tuple[str, ...]: ...

    @property
    def pairs(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def labels(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True)
class MaskCheck:
    """What a look at pictures and masks found.

    Attributes:
      pictures: how many were looked at.
      pixels: (classes,) int64, of each class, in the masks that can be read.
      masks: (classes,) int64, how many masks hold it.
      ignored: pixels that are not learnt.
      sizes: (N, 2) int32, height and width of the pictures whose masks can be read.
      problems: a line for each file that cannot be used.
    """

    pictures: int
    pixels: np.ndarray
    masks: np.ndarray
    ignored: int
    sizes: np.ndarray
    problems: tuple[str, ...] = ()

    def __add__(self, other: "MaskCheck") -> "MaskCheck":
        return MaskCheck(
            self.pictures + other.pictures,
            self.pixels + other.pixels,
            self.masks + other.masks,
            self.ignored + other.ignored,
            np.concatenate([self.sizes, other.sizes]),
            self.problems + other.problems,
        )

    @property
    def shares(self) -> np.ndarray:
        """(classes,) float64, of all pixels, the ignored ones too; zeros where there are none."""
        return self.pixels / max(1, self.ignored + int(self.pixels.sum()))

    @property
    def ignored_share(self) -> float:
        """The share of all pixels."""
        return self.ignored / max(1, self.ignored + int(self.pixels.sum()))


def check_masks(
    source: Masks, progress: Callable[[int, int], None] | None = None, *, pictures: bool = True
) -> MaskCheck:
    """Reads every mask, and decodes every picture.

    Args:
      progress: called with (pictures done, pictures in all).
      pictures: False leaves the pictures undecoded, where only pixels are to be counted.
    """
    found = _look(source, range(len(source)), pictures=pictures, progress=progress)
    problems = (*source.without, *found.problems)
    if _is_binary(source, found):
        problems = (BINARY, *problems)
    return MaskCheck(found.pictures, found.pixels, found.masks, found.ignored, found.sizes, problems)


def check_sample(source: Masks, count: int) -> None:
    """Looks at some pictures and masks, spread over the source.

    Raises:
      RequestError: the first that cannot be used, with what would help.
    """
    found = _look(source, spread(len(source), count), pictures=False)
    if found.problems:
        raise RequestError(f"{found.problems[0]}; crosscale data FOLDER --check looks at every file")
    if _is_binary(source, found):
        raise RequestError(f"{source.pairs.names(0)[1]}: {BINARY}")


def _is_binary(source: Masks, found: MaskCheck) -> bool:
    """Whether 255 was meant as the second class: where values are labels, and there are only 0 and 255."""
    as_they_are = source.reading.colours is None and source.reading.labels[0] == 0
    return as_they_are and bool(found.ignored) and bool(found.pixels[0]) and not found.pixels[1:].any()


def _look(
    source: Masks, indices: Sequence[int], *, pictures: bool, progress: Callable[[int, int], None] | None = None
) -> MaskCheck:
    number = len(source.classes)
    counts = np.zeros(256, np.int64)
    masks = np.zeros(number, np.int64)
    sizes: list[tuple[int, int]] = []
    problems: list[str] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # decoding frees the interpreter
        for done, one in enumerate(pool.map(partial(_look_at, source, pictures), indices), 1):
            if isinstance(one, str):
                problems.append(one)
            else:
                counts += one[0]
                masks += one[0][:number] > 0
                sizes.append(one[1])
            if progress is not None:
                progress(done, len(indices))
    shape = np.array(sizes, np.int32).reshape(-1, 2)
    return MaskCheck(len(indices), counts[:number], masks, int(counts[IGNORED]), shape, tuple(problems))


def _look_at(source: Masks, pictures: bool, index: int) -> tuple[np.ndarray, tuple[int, int]] | str:
    """Pixels of each label and the size, or what is wrong."""
    try:
        if not pictures:
            labels = source.labels(index)
        else:
            record = source[index]
            labels = record.target
            decode(record.image, 3, record.id)
        return counts_of(labels), (labels.shape[0], labels.shape[1])
    except BadImage as error:
        return str(error)
