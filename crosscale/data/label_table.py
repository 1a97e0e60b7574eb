"""A table of pictures and their classes as a source: a column of paths and one of names or numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from crosscale.data.names import say_once
from crosscale.data.split import part_of
from crosscale.data.table import read_weights
from crosscale.data.table_pictures import TablePictures
from crosscale.data.table_rows import (
    RECOGNISED,
    SPLIT_NAME,
    Table,
    TableColumns,
    check_files,
    columns_text,
    first_of,
    one_spelling,
    read_table,
    row_splits,
)
from crosscale.errors import RequestError

LABEL_NAMES = ("label", "class", "target", "category", "labels", "class_name", "classes", "tags")
WEIGHT_NAMES = ("weight", "sample_weight")


class LabelTable(TablePictures):
    """Pictures with a class each.

    Attributes:
      table: the file.
      root: what paths are relative to.
      classes: their names, sorted, or by size where all are whole numbers.
      paths: of the pictures, relative to `root` or absolute.
      labels: (N,) int32.
      weights: (N,) float64, how much each picture counts in training; None for all alike.
      notes: lines on which column was taken for what, and on what was left out.
    """

    def __init__(
        self,
        table: Path,
        root: Path,
        classes: Sequence[str],
        paths: Iterable[str],
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(root, paths, np.asarray(labels, np.int32), weights)
        self.table = table
        self.classes: Sequence[str] = tuple(classes)
        self.notes = tuple(notes)

    @property
    def labels(self) -> np.ndarray:
        """The targets."""
        return self.targets


def open_label_table(
    file: str | Path,
    split: str,
    *,
    val_fraction: float,
    seed: int,
    columns: TableColumns | None = None,
    root: str | Path | None = None,
) -> LabelTable:
    """One split of a table of paths and classes.

    The label is the column called label, class, target or category, or the only one that is left; a column "weight"
    says how much each picture counts in training. Rows that name a picture again with the same class are left out and
    counted. The classes are those of the rows to train on.

    Args:
      file: .csv (comma, semicolon or tab), .tsv, .jsonl or .parquet.
      split: "train", "val" or "all".
      val_fraction: share of each class that is held out where no column says train or val.
      columns: which columns are what.
      root: what paths are relative to; None is the table's folder.

    Raises:
      RequestError: the file, a column, a picture or a label is missing, a picture has two classes, or a class is held
        out that is nowhere to train on; the row is named.
      WorkError: the file cannot be read.
    """
    columns = columns or RECOGNISED
    table = read_table(file, "labels")
    base = table.file.parent if root is None else Path(root).expanduser()
    place, part = table.path_column(columns.path), table.column(columns.split, (SPLIT_NAME,))
    weight = table.column(columns.weight, WEIGHT_NAMES)
    column = label_column(table, {place, part, weight, *table.further_paths(place)}, columns.label)
    used = {"path": place, **table.further_columns(place), "label": column, "split": part, "weight": weight}
    notes = [f"{table.file.name}: {columns_text(table, used)}"]
    paths, labels = table.paths(place), plain_labels([row.text(column) for row in table.rows])
    kept, repeated = once(table, paths, labels)
    if repeated:
        notes.append(f"{table.file.name}: {repeated} rows name a picture again with the same label and are left out")
    table = Table(table.file, table.headings, [table.rows[i] for i in kept])
    paths, labels = [paths[i] for i in kept], [labels[i] for i in kept]
    check_files(table, paths, base)
    parts = None if part is None else row_splits(table, part)
    classes = sorted_classes(
        name for i, name in enumerate(labels) if split == "all" or parts is None or parts[i] == "train"
    )
    _check_classes(table, labels, classes, parts)
    position = {name: label for label, name in enumerate(classes)}
    numbers = np.array([position.get(name, -1) for name in labels], np.int32)
    whole = LabelTable(table.file, base, classes, paths, numbers, read_weights(table, weight), notes)
    if split == "all":
        return whole
    if parts is None:
        return part_of(whole, paths, numbers, split, val_fraction, seed, str(table.file))
    return whole.select(np.flatnonzero(parts == split))


def label_column(table: Table, taken: set[int | None], wanted: str | None) -> int:
    """The position of the column of labels: by this name, by a usual one, or the only one left. Raises RequestError."""
    found = table.column(wanted, LABEL_NAMES)
    left = [i for i in range(len(table.headings)) if i not in taken]
    if found is None and len(left) == 1:
        found = left[0]
    if found is None:
        which = ", ".join(table.headings[i] for i in left) or "none is left beside the paths"
        raise RequestError(f"{table.file}: which column is the label ({which})? say so with task.label_column")
    return found


def plain_labels(labels: Sequence[str]) -> list[str]:
    """The labels, without the ".0" that a column of whole numbers gets where a program took them for others."""
    if all(re.fullmatch(r"\d+\.0", label) for label in labels if label) and any(labels):
        return [label.removesuffix(".0") for label in labels]
    return list(labels)


def sorted_classes(labels: Iterable[str]) -> list[str]:
    """Each label once, in order: whole numbers by size, names as text."""
    found = set(labels)
    if all(re.fullmatch(r"\d+", label) for label in found):
        return sorted(found, key=lambda label: (int(label), label))
    return sorted(found)


def once(table: Table, paths: Sequence[str], labels: Sequence[object]) -> tuple[list[int], int]:
    """Positions of the first row of each picture, and how many rows say the same again.

    Raises RequestError for pictures that have two labels: how many, and the first ten by name and row.
    """
    first: dict[str, int] = {}
    again, twice = 0, []
    for i, path in enumerate(paths):
        before = first.setdefault(one_spelling(path), i)
        if before != i and labels[before] == labels[i]:
            again += 1
        elif before != i:
            rows = f"rows {table.rows[before].number} and {table.rows[i].number}"
            twice.append(f"{path} ({rows}: '{_words(labels[before])}' and '{_words(labels[i])}')")
    if twice:
        raise RequestError(f"{table.file}: {len(twice)} rows give a picture another label: {first_of(twice)}")
    return list(first.values()), again


def _words(label: object) -> str:
    return "|".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _check_classes(table: Table, labels: Sequence[str], classes: Sequence[str], parts: np.ndarray | None) -> None:
    """Refuses rows without a label and classes only held out; names classes that may be one."""
    empty = [f"row {row.number}" for row, label in zip(table.rows, labels, strict=True) if not label]
    if empty:
        raise RequestError(
            f"{table.file}: {len(empty)} rows have no label: {first_of(empty)}; give one or remove the row"
        )
    known = set(classes)
    unknown = Counter(
        label for i, label in enumerate(labels) if label not in known and parts is not None and parts[i] == "val"
    )
    if unknown:
        name = next(iter(unknown))
        row = table.rows[labels.index(name)].number
        more = f" (and {len(unknown) - 1} more classes)" if len(unknown) > 1 else ""
        raise RequestError(
            f"{table.file}: row {row}: the class '{name}' is held out but nowhere to train on{more}; move some of its "
            "rows to train, or remove them"
        )
    warn_alike(str(table.file), classes, Counter(labels))
    if several := next((label for label in labels if "|" in label), None):
        text = f"the label '{several}' looks like several; to learn any number of them: task.name: multilabel"
        say_once(table.file, text)


def warn_alike(where: str, classes: Sequence[str], counts: "Counter[str]") -> None:
    """Logs once the classes that differ only in case or white space, which are mostly meant to be one."""
    spelt: dict[str, list[str]] = {}
    for name in classes:
        spelt.setdefault(" ".join(name.casefold().split()), []).append(name)
    for names in spelt.values():
        if len(names) > 1:
            told = " and ".join(f"'{name}' ({counts[name]})" for name in names)
            common = max(names, key=counts.__getitem__)
            rest = ", ".join(f"'{name}': '{common}'" for name in names if name != common)
            say_once(
                where,
                f"the classes {told} differ only in case or white space; if they are one: task.class_map: {{{rest}}}",
            )
