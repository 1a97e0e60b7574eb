"""A table of pictures with any number of labels each: tags in one column, or a column of 0 and 1 per label."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from crosscale.data.label_table import LABEL_NAMES, WEIGHT_NAMES, once, sorted_classes, warn_alike
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
    others,
    read_table,
    row_splits,
)
from crosscale.errors import RequestError, did_you_mean

YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")

Tags = tuple[str, ...]  # of one picture: sorted, each once


class TagTable(TablePictures):
    """Pictures with any number of labels each.

    Attributes:
      table: the file.
      root: what paths are relative to.
      classes: names of the labels, in order.
      paths: of the pictures, relative to `root` or absolute.
      tags: (N, classes) bool.
      weights: (N,) float64, how much each picture counts in training; None for all alike.
      notes: lines on which column was taken for what, and on what was left out.
    """

    def __init__(
        self,
        table: Path,
        root: Path,
        classes: Sequence[str],
        paths: Iterable[str],
        tags: np.ndarray,
        weights: np.ndarray | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(root, paths, tags, weights)
        self.table = table
        self.classes: Sequence[str] = tuple(classes)
        self.notes = tuple(notes)

    @property
    def tags(self) -> np.ndarray:
        """The targets."""
        return self.targets

    def counted_as(self, classes: Sequence[str], place: str | Path) -> "TagTable":
        """The same pictures with the labels in another order, which may hold more of them.

        Raises RequestError for a label of this table that is not one of these.
        """
        for name in self.classes:
            if name not in classes:
                raise RequestError(
                    f"{place}: the label '{name}' is not one of the {len(classes)} that the model was trained for"
                )
        tags = np.zeros((len(self), len(classes)), bool)
        tags[:, [list(classes).index(name) for name in self.classes]] = self.tags
        return TagTable(self.table, self.root, classes, self.paths, tags, self.weights, self.notes)


def open_tag_table(
    file: str | Path,
    split: str,
    *,
    val_fraction: float,
    seed: int,
    columns: TableColumns | None = None,
    labels: Sequence[str] = (),
    separator: str = "|",
    class_map: Mapping[str, str | None] | None = None,
    root: str | Path | None = None,
) -> TagTable:
    """One split of a table of paths and labels.

    Args:
      file: .csv (comma, semicolon or tab), .tsv, .jsonl or .parquet.
      split: "train", "val" or "all".
      val_fraction: share that is held out where no column says train or val, of the pictures of each rarest label.
      columns: which of the other columns are what.
      labels: one column of tags (with the separator between them, or lists), or several of 0 and 1, each named as its
        label; () is the column called label, tags or the like, or all columns of 0 and 1.
      separator: of tags.
      class_map: old name -> new one, or None for a label that is not learnt; see `crosscale.data.class_map`.
      root: what paths are relative to; None is the table's folder.

    Raises:
      RequestError: the file, a column or a picture is missing, a cell is neither 0 nor 1, a picture is there twice with
        other labels, or a label is held out that is nowhere to train on; the row is named.
      WorkError: the file cannot be read.
    """
    columns = columns or RECOGNISED
    table = read_table(file, "labels")
    base = table.file.parent if root is None else Path(root).expanduser()
    place, part = table.path_column(columns.path), table.column(columns.split, (SPLIT_NAME,))
    weight = table.column(columns.weight, WEIGHT_NAMES)
    chosen = _label_columns(table, {place, part, weight, *table.further_paths(place)}, labels)
    used: dict[str, int | None] = {"path": place, **table.further_columns(place), "split": part, "weight": weight}
    used |= {f"label{'' if i == 0 else f' {i + 1}'}": column for i, column in enumerate(chosen)}
    tags = _mapped(table, _tags(table, chosen, separator), class_map or {})
    paths = table.paths(place)
    kept, repeated = once(table, paths, tags)
    notes = [f"{table.file.name}: {columns_text(table, used)}"]
    if repeated:
        notes.append(f"{table.file.name}: {repeated} rows name a picture again with the same labels and are left out")
    table = Table(table.file, table.headings, [table.rows[i] for i in kept])
    paths, tags = [paths[i] for i in kept], [tags[i] for i in kept]
    check_files(table, paths, base)
    parts = None if part is None else row_splits(table, part)
    train = [found for i, found in enumerate(tags) if split == "all" or parts is None or parts[i] == "train"]
    classes = sorted_classes(name for found in train for name in found)
    _check(table, tags, classes, parts)
    matrix = np.array([[name in found for name in classes] for found in tags], bool).reshape(len(tags), len(classes))
    whole = TagTable(table.file, base, classes, paths, matrix, read_weights(table, weight), notes)
    if split == "all":
        return whole
    if parts is None:
        return part_of(whole, paths, rarest(matrix), split, val_fraction, seed, str(table.file))
    return whole.select(np.flatnonzero(parts == split))


def rarest(tags: np.ndarray) -> np.ndarray:
    """(N,) the label of each picture that the fewest pictures have, -1 where it has none."""
    counts = np.where(tags, tags.sum(0), tags.size + 1)
    return np.where(tags.any(1), counts.argmin(1) if tags.shape[1] else 0, -1)


def _label_columns(table: Table, taken: set[int | None], wanted: Sequence[str]) -> list[int]:
    """Positions of one column of tags, or of several of 0 and 1."""
    for name in wanted:
        if name not in table.headings:
            raise RequestError(f"{table.file}: has no column '{name}'{others(name, table.headings)}")
    if wanted:
        return [table.headings.index(name) for name in wanted]
    if (usual := table.column(None, LABEL_NAMES)) is not None:
        return [usual]
    left = [i for i in range(len(table.headings)) if i not in taken]
    binary = [i for i in left if all(row.text(i).lower() in YES + NO for row in table.rows)]
    if binary or len(left) == 1:
        return binary or left
    raise RequestError(
        f"{table.file}: which columns are the labels ({', '.join(table.headings[i] for i in left) or 'none is left'})? "
        "say so with task.label_columns"
    )


def _tags(table: Table, columns: Sequence[int], separator: str) -> list[Tags]:
    """Each row's labels. A single column of 0 and 1 is one of several labels where its heading is no usual name."""
    heading = table.headings[columns[0]]
    if len(columns) == 1 and heading.lower() in LABEL_NAMES:
        return [_split_cell(row.cells[columns[0]], separator) for row in table.rows]
    if len(columns) == 1 and not all(row.text(columns[0]).lower() in YES + NO for row in table.rows):
        return [_split_cell(row.cells[columns[0]], separator) for row in table.rows]
    found = []
    for row in table.rows:
        names = []
        for column in columns:
            cell = row.text(column).lower()
            if cell not in YES + NO:
                raise RequestError(
                    f"{table.file}: row {row.number}: '{row.text(column)[:40]}' in the column "
                    f"'{table.headings[column]}' is neither 0 nor 1"
                )
            names += [table.headings[column]] * (cell in YES)
        found.append(tuple(sorted(names)))
    return found


def _split_cell(cell: object, separator: str) -> Tags:
    parts = cell if isinstance(cell, tuple) else str(cell).split(separator)
    return tuple(sorted({part.strip() for part in parts} - {""}))


def _mapped(table: Table, tags: list[Tags], mapping: Mapping[str, str | None]) -> list[Tags]:
    if not mapping:
        return tags
    known = {name for found in tags for name in found}
    for name in mapping:
        if name not in known:
            hint = did_you_mean(name, known) or f"; they are {', '.join(sorted(known)[:10])}"
            raise RequestError(f"task.class_map: '{name}' is not one of the labels of {table.file}{hint}")
    new = [{mapping.get(name, name) for name in found} for found in tags]
    return [tuple(sorted(name for name in found if name is not None)) for found in new]


def _check(table: Table, tags: Sequence[Tags], classes: Sequence[str], parts: np.ndarray | None) -> None:
    """Refuses a table without labels, and labels only held out; names labels that may be one."""
    if not classes:
        raise RequestError(f"{table.file}: no row to train on has a label")
    known = set(classes)
    for i, found in enumerate(tags):
        unknown = [name for name in found if name not in known and parts is not None and parts[i] == "val"]
        if unknown:
            raise RequestError(
                f"{table.file}: row {table.rows[i].number}: the label '{unknown[0]}' is held out but nowhere to train "
                "on; move some of its rows to train, or leave it out with task.class_map"
            )
    warn_alike(str(table.file), classes, Counter(name for found in tags for name in found))
