"""The names of a mask folder's classes, and their colours where it says so: classes.csv and its relatives."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosscale.data.mask_read import IGNORED, Colour
from crosscale.data.text_lists import check_distinct, read_lines, read_names
from crosscale.errors import RequestError

TABLES = ("classes.csv", "class_dict.csv")  # name, r, g, b; or name
LISTS = ("classes.txt", "class_names.txt", "labels.txt", "codes.txt")  # a name a line
LABEL_MAP = "labelmap.txt"  # name:r,g,b:parts:actions, as CVAT writes it
IGNORE = "ignore"  # the line of a colour that is not learnt


@dataclass(frozen=True)
class ClassTable:
    """Classes in label order.

    Attributes:
      file: that says so.
      classes: their names.
      colours: label of each colour, 255 for what is ignored; None where only names are given.
    """

    file: Path
    classes: tuple[str, ...]
    colours: dict[Colour, int] | None = None

    def palette(self) -> np.ndarray | None:
        """(classes, 3) uint8, the first colour of each class; None without colours."""
        if self.colours is None:
            return None
        found = np.zeros((len(self.classes), 3), np.uint8)
        for colour, label in reversed(self.colours.items()):
            if label != IGNORED:
                found[label] = colour
        return found


def find_class_table(root: Path) -> ClassTable | None:
    """A folder's word on its classes, by the first of these that is there: classes.csv, labelmap.txt, classes.txt.

    Raises:
      RequestError: the file cannot be read, or a line of it makes no sense; the line is named.
    """
    for name in TABLES:
        if (root / name).is_file():
            return _from_csv(root / name)
    if (root / LABEL_MAP).is_file():
        return _from_label_map(root / LABEL_MAP)
    for name in LISTS:
        if (root / name).is_file():
            return ClassTable(root / name, _named(root / name, read_names(root / name)))
    return None


def _from_csv(file: Path) -> ClassTable:
    lines = read_lines(file)
    first = next((line for line in lines if line), "")
    delimiter = max((",", ";", "\t"), key=first.count)
    rows = [
        (number, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))])
        for number, line in enumerate(lines, 1)
        if line
    ]
    if rows and _is_heading(rows[0][1]):
        rows = rows[1:]
    if rows and all(len(cells) == 1 for _, cells in rows):
        names = [cells[0] for _, cells in rows]
        check_distinct(names, str(file))
        return ClassTable(file, _named(file, names))
    return _coloured(file, [(number, cells[0], cells[1:]) for number, cells in rows])


def _from_label_map(file: Path) -> ClassTable:
    rows = []
    for number, line in enumerate(read_lines(file), 1):
        if line and not line.startswith("#"):
            name, _, rest = line.partition(":")
            rows.append((number, name.strip(), [cell.strip() for cell in rest.partition(":")[0].split(",")]))
    return _coloured(file, rows)


def _is_heading(cells: Sequence[str]) -> bool:
    """Whether the first line holds headings: words where numbers would stand, or the word name alone."""
    if len(cells) == 1:
        return cells[0].lower() in ("name", "names", "class", "classes", "label", "labels")
    return not any(cell.isdigit() for cell in cells[1:])


def _coloured(file: Path, rows: Sequence[tuple[int, str, Sequence[str]]]) -> ClassTable:
    classes: list[str] = []
    colours: dict[Colour, int] = {}
    for number, name, cells in rows:
        if not name or len(cells) != 3 or not all(cell.isdigit() and int(cell) <= 255 for cell in cells):
            raise RequestError(f"{file}: line {number} is not of the form name,r,g,b with numbers 0..255")
        colour = int(cells[0]), int(cells[1]), int(cells[2])
        if colour in colours:
            raise RequestError(f"{file}: line {number}: the colour {colour} appears twice")
        if name.lower() == IGNORE:
            colours[colour] = IGNORED
            continue
        if name not in classes:  # a class may have several colours
            classes.append(name)
        colours[colour] = classes.index(name)
    return ClassTable(file, _named(file, classes), colours)


def _named(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise RequestError(f"{file}: names no class")
    return tuple(names)
