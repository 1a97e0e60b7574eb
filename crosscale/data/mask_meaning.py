"""Which classes a set of masks has, and whether its values or its colours say so: found before anything is learnt."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from crosscale.data.class_table import ClassTable
from crosscale.data.decode import BadImage
from crosscale.data.mask_read import IGNORED, MOST_CLASSES, MaskReading, Stored, counts_of, listed
from crosscale.data.mask_sets import ADE20K, CITYSCAPES_IDS, CITYSCAPES_LABELS, KnownSet, distinct_colours
from crosscale.errors import RequestError

PROBED = 32  # masks whose kind is looked at
SCANNED = 2000  # masks whose values are looked at where nothing names the classes
SCANNED_PIXELS = 1_000_000_000  # of all of these together: some ten seconds
SMOOTHED = 200  # from so many different values on, they are taken for the greys of a picture

Reader = Callable[[int], tuple[str, Stored]]  # index -> name of a mask's file, what it holds; raises BadImage
T = TypeVar("T")

_ANY_VALUE = MaskReading.of_values(MOST_CLASSES)

BINARY = (
    "the masks hold only 0 and 255, and 255 is ignored, so the object would not be learnt; save the object as 1, "
    "or write classes.csv with the lines background,0,0,0 and object,255,255,255"
)


@dataclass(frozen=True)
class Meaning:
    """What the masks of a set say.

    Attributes:
      classes: names, in label order.
      palette: (classes, 3) uint8, the colour in which each is drawn.
      reading: from a file's values to labels.
      notes: lines on how this was found.
      reduce_zero_label: whether the value 0 is ignored and classes count from 1.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    reading: MaskReading
    notes: tuple[str, ...]
    reduce_zero_label: bool = False


def meaning_of(
    place: Path,
    masks: Reader,
    count: int,
    *,
    table: ClassTable | None = None,
    known: KnownSet | None = None,
    label_ids: bool = False,
    reduce_zero_label: bool | None = None,
    classes: Sequence[str] | None = None,
    lenient: bool = False,
) -> Meaning:
    """Decides what the values of a set's masks mean.

    Args:
      place: what errors name.
      masks: all of the set's masks, both splits'.
      count: how many they are.
      table: names of the classes, and perhaps colours, that come with the data.
      known: the public set that the layout is of.
      label_ids: the values are Cityscapes' label ids.
      reduce_zero_label: whether 0 is ignored and classes count from 1; None is what the public set does, else no.
      classes: what they are where neither the data nor its layout names them; None looks at the masks' values.
      lenient: masks that cannot be read are passed over, as long as there are others.

    Raises:
      RequestError: the classes cannot be found, or fit no mask of 8 bits.
    """
    some = _Some(masks, count, lenient)
    if table is not None:
        return _of_table(place, some, table, bool(reduce_zero_label))
    if known is ADE20K:
        return _of_ade(reduce_zero_label)
    if known is not None:
        if reduce_zero_label:
            raise RequestError(f"{place}: reduce_zero_label does not go with {known.name}, whose class 0 counts")
        mapped = {value: CITYSCAPES_LABELS.get(value, IGNORED) for value in range(CITYSCAPES_IDS)}
        number = len(known.classes)
        if label_ids:
            reading = MaskReading.of_mapping(number, mapped, place=known.name)
        else:
            reading = MaskReading.of_values(number, place=known.name)
        return Meaning(known.classes, known.palette, reading, (f"{number} classes of {known.name}",))
    if classes is not None:
        return _of_given(classes, bool(reduce_zero_label))
    return _of_values(place, some, bool(reduce_zero_label))


def _of_ade(reduce_zero_label: bool | None) -> Meaning:
    """Its value 0 is what none of the 150 classes is."""
    if reduce_zero_label is False:
        classes = ("other", *ADE20K.classes)
        note = "reduce_zero_label: no, as asked for; 0 is the class other"
        reading = MaskReading.of_values(151, place=ADE20K.name)
        return Meaning(classes, distinct_colours(151), reading, ("151 classes of ADE20K", note))
    how = "as asked for" if reduce_zero_label else "recognised from the layout"
    note = f"reduce_zero_label: yes, {how}; 0 is ignored, 1..150 become 0..149"
    reading = MaskReading.of_values(150, reduce_zero_label=True, place=ADE20K.name)
    return Meaning(ADE20K.classes, ADE20K.palette, reading, ("150 classes of ADE20K", note), True)


def _reduced(asked: bool, classes: int) -> tuple[str, ...]:
    return (f"reduce_zero_label: yes, as asked for; 0 is ignored, 1..{classes} become 0..{classes - 1}",) * asked


def _of_table(place: Path, masks: "_Some", table: ClassTable, reduce_zero_label: bool) -> Meaning:
    number = len(table.classes)
    _check_number(table.file, number)
    values = MaskReading.of_values(number, reduce_zero_label=reduce_zero_label, place=table.file.name)
    palette = table.palette()
    note = f"{number} classes by {table.file.name}"
    if table.colours is not None:
        colours = MaskReading.of_colours(number, table.colours, place=table.file.name)
        if _says_by_colour(masks.seen(lambda _, stored: _probe(stored, values, colours), PROBED)):
            if reduce_zero_label:
                raise RequestError(f"{place}: reduce_zero_label does not go with masks that are read by their colours")
            assert palette is not None
            return Meaning(table.classes, palette, colours, (f"{note}, by their colours",))
    drawn = palette if palette is not None else distinct_colours(number)
    notes = (note, *_reduced(reduce_zero_label, number))
    return Meaning(table.classes, drawn, values, notes, reduce_zero_label)


@dataclass(frozen=True)
class _Probe:
    """How one mask can be read: its count of channels, whether it has a palette, and whether either reading fits."""

    channels: int
    palette: bool
    by_values: bool
    by_colours: bool
    counts: np.ndarray


def _probe(stored: Stored, values: MaskReading, colours: MaskReading) -> _Probe:
    channels = stored.values.shape[2] if stored.values.ndim == 3 else 1
    counts = counts_of(stored.values) if channels == 1 else np.zeros(256, np.int64)
    fits = _fits(values, stored), _fits(colours, stored)
    return _Probe(channels, stored.palette is not None, *fits, counts)


def _says_by_colour(probes: Sequence[_Probe]) -> bool:
    """Whether masks with a table of colours beside them are meant by their colours, and not by their values."""
    if any(probe.channels > 1 for probe in probes):
        return True
    if not probes or not all(probe.by_colours for probe in probes):
        return False
    if any(probe.palette for probe in probes):
        return True  # the palette's colours are all in the table, perhaps in another order
    # Grey: labels, unless they make none, or are black and white.
    found = set(np.flatnonzero(sum(probe.counts for probe in probes)).tolist())
    return not all(probe.by_values for probe in probes) or (IGNORED in found and found <= {0, IGNORED})


def _fits(reading: MaskReading, stored: Stored) -> bool:
    try:
        reading.labels_of(stored, "")
    except BadImage:
        return False
    return True


def _of_given(classes: Sequence[str], reduce_zero_label: bool) -> Meaning:
    number = len(classes)
    reading = MaskReading.of_values(number, reduce_zero_label=reduce_zero_label, place="as given")
    notes = (f"{number} classes, as given", *_reduced(reduce_zero_label, number))
    return Meaning(tuple(classes), distinct_colours(number), reading, notes, reduce_zero_label)


def _of_values(place: Path, masks: "_Some", reduce_zero_label: bool) -> Meaning:
    pixels = max(masks.seen(lambda _, stored: stored.values.size, PROBED), default=1)
    looked_at = masks.seen(_values_in, max(PROBED, min(SCANNED, SCANNED_PIXELS // pixels)))
    counts = np.sum(looked_at, axis=0) if looked_at else np.zeros(256, np.int64)
    found = np.flatnonzero(counts[:IGNORED])
    if set(np.flatnonzero(counts)) == {0, IGNORED} and not reduce_zero_label:
        raise RequestError(f"{place}: {BINARY}")
    if found.size > SMOOTHED:
        raise RequestError(
            f"{place}: the masks hold {found.size} different values, as smoothed edges or pictures do; save labels as "
            "they are, or name the classes in classes.txt"
        )
    first = int(reduce_zero_label)
    number = int(found.max()) + 1 - first if found.size else 0
    if number < 2:
        values = listed(np.flatnonzero(counts))
        raise RequestError(f"{place}: the masks hold only {values}, so there are no two classes to tell apart")
    which = f"all {len(looked_at):,}" if len(looked_at) == masks.count else f"{len(looked_at):,} of {masks.count:,}"
    note = f"{number} classes, because {found.max()} is the largest value in {which} masks; classes.txt would name them"
    absent = sorted(set(range(first, number + first)) - set(found.tolist()))
    gap = (f"no mask holds the value{'s' if len(absent) > 1 else ''} {listed(absent)}",) if absent else ()
    reading = MaskReading.of_values(number, reduce_zero_label=reduce_zero_label, place="the values found")
    names = tuple(str(value) for value in range(first, number + first))
    notes = (note, *gap, *_reduced(reduce_zero_label, number))
    return Meaning(names, distinct_colours(number), reading, notes, reduce_zero_label)


def _values_in(name: str, stored: Stored) -> np.ndarray:
    """Pixels of each value; raises BadImage for a mask of colours."""
    _ANY_VALUE.labels_of(stored, name)
    return counts_of(stored.values)


def _check_number(file: Path, number: int) -> None:
    if number < 2:
        raise RequestError(f"{file}: only one class; name the background too, as the class of the value 0")


def spread(count: int, most: int) -> list[int]:
    """Up to `most` positions among `count`, evenly spread from the first to the last."""
    return sorted({int(position) for position in np.linspace(0, count - 1, min(count, most)).round()}) if count else []


@dataclass(frozen=True)
class _Some:
    """Masks to look at: how to read one, how many there are, whether those that cannot be read are passed over."""

    read: Reader
    count: int
    lenient: bool

    def seen(self, look: Callable[[str, Stored], T], most: int) -> list[T]:
        """What is seen of up to `most` masks; raises RequestError for one that cannot be read."""

        def one(index: int) -> T | BadImage:
            try:
                return look(*self.read(index))
            except BadImage as error:
                return error

        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            found = list(pool.map(one, spread(self.count, most)))
        good = [item for item in found if not isinstance(item, BadImage)]
        bad = next((item for item in found if isinstance(item, BadImage)), None)
        if bad is not None and not (self.lenient and good):
            raise RequestError(str(bad))
        return good
