"""What a reader of annotations gives, whatever their format: pictures, objects, classes, and what is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crosscale.data.object_table import MOST_OBJECTS, REMEDIES, Fault, ObjectTable
from crosscale.data.strings import Strings
from crosscale.errors import RequestError


@dataclass(frozen=True)
class Annotated:
    """The annotations of one part of a data set.

    Attributes:
      pictures: what each picture is called: a path relative to the data set's folder, or a row's name.
      table: their objects, N pictures.
      sizes: (N, 2) int32, height and width as the annotations give them; 0 where they do not.
      image_ids: (N,) int64, as the annotations number the pictures.
      classes: names, in label order.
      category_ids: what the annotations call each class.
      where: the file that the annotations are in, for people; "" where each picture has one of its own.
      files: of each picture, where each has one of its own.
      kind: of entry that an object's id numbers: "annotation", "line", "object".
      refused: a line for each thing that the data cannot be used with.
      notes: lines on how it was read.
    """

    pictures: Strings
    table: ObjectTable
    sizes: np.ndarray
    image_ids: np.ndarray
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    where: str = ""
    files: Strings | None = None
    kind: str = "annotation"
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def file_of(self, index: int) -> str:
        """The file that a picture's annotations are in, for people."""
        return self.where if self.files is None else self.files[index]

    def entry(self, index: int, row: int) -> str:
        """Where an object is found: the file, the entry, its picture.

        Args:
          index: of the picture.
          row: of the object, in the table.
        """
        entry = f"{self.file_of(index)}: {self.kind} {int(self.table.ids[row])}"
        return entry if self.files is not None else f"{entry} of {self.pictures[index]}"

    def faults(self) -> list[str]:
        """A line for each object that is not as it should be, with what becomes of it."""
        lines = []
        wanted = ~int(Fault.IGNORED | Fault.UNUSABLE) & (0xFF if self.table.masks is not None else ~_OF_MASKS & 0xFF)
        for row in np.flatnonzero(self.table.faults & wanted):
            index = int(np.searchsorted(self.table.starts, row, side="right")) - 1
            found = int(self.table.faults[row]) & wanted
            for fault in (fault for fault in REMEDIES if found & fault):
                lines.append(f"{self.entry(index, int(row))}: {self._told(index, int(row), fault)}; {REMEDIES[fault]}")
        return lines

    def _told(self, index: int, row: int, fault: Fault) -> str:
        height, width = self.sizes[index].tolist()
        x0, y0, x1, y1 = self.table.boxes[row].tolist()
        box = f"the box {x0:g} {y0:g} {x1:g} {y1:g}"
        picture = f"the picture of {width} x {height}" if height else "its picture"
        return {
            Fault.BEYOND: f"{box} reaches beyond {picture}",
            Fault.OUTSIDE: f"{box} lies outside {picture}",
            Fault.EMPTY: f"{box} is {x1 - x0:g} wide and {y1 - y0:g} high",
            Fault.NO_MASK: "has no mask",
            Fault.POLYGON: "has a polygon of fewer than three corners",
        }[fault]

    def refusing(self, lines: Sequence[str]) -> "Annotated":
        """The same with more lines of `refused`."""
        return replace(self, refused=(*self.refused, *lines))

    def select(self, indices: np.ndarray) -> "Annotated":
        """Some of the pictures."""
        return replace(
            self,
            pictures=Strings.of([self.pictures[int(index)] for index in indices]),
            table=self.table.select(indices),
            sizes=self.sizes[indices],
            image_ids=self.image_ids[indices],
            files=None if self.files is None else Strings.of([self.files[int(index)] for index in indices]),
        )

    def with_classes(self, classes: Sequence[str]) -> "Annotated":
        """The same with labels that are positions in `classes`, by name.

        Raises:
          RequestError: the names are not the same.
        """
        if tuple(classes) == self.classes:
            return self
        more, fewer = sorted({*self.classes} - {*classes}), sorted({*classes} - {*self.classes})
        if more or fewer:
            differ = "; ".join(
                f"{text} {', '.join(map(repr, names[:5]))}{' ...' if len(names) > 5 else ''}"
                for text, names in (("it has", more), ("it lacks", fewer))
                if names
            )
            raise RequestError(
                f"{self.place()}: not the classes to train on: {differ}; both parts need the same list of classes"
            )
        positions = {name: label for label, name in enumerate(classes)}
        order = [positions[name] for name in self.classes]
        ids = [0] * len(order)
        for label, number in zip(order, self.category_ids, strict=True):
            ids[label] = number
        return replace(self, classes=tuple(classes), category_ids=tuple(ids), table=self.table.relabelled(order))

    def place(self) -> str:
        """The file of the annotations, or the folder of the first one."""
        return self.where or (str(Path(self.files[0]).parent) if self.files is not None and len(self.files) else "")


_OF_MASKS = int(Fault.NO_MASK | Fault.POLYGON)


def crowded(annotated: Annotated) -> tuple[str, ...]:
    """A line for each picture with more objects than a batch can hold."""
    counts = np.diff(annotated.table.starts)
    return tuple(
        f"{annotated.file_of(i)}: image {annotated.image_ids[i]} ({annotated.pictures[i]}) has {counts[i]:,} objects, "
        f"and a batch holds at most {MOST_OBJECTS:,} of each picture; cut the picture into tiles, or mark a group as "
        "one crowd"
        for i in np.flatnonzero(counts > MOST_OBJECTS).tolist()
    )
