"""A table of pictures and numbers as a source: a column of paths, and one or more of numbers."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosscale.data.split import part_of
from crosscale.data.table_pictures import TablePictures
from crosscale.data.table_rows import (
    RECOGNISED,
    SPLIT_NAME,
    Row,
    Table,
    TableColumns,
    check_files,
    columns_text,
    one_spelling,
    others,
    read_table,
    row_splits,
)
from crosscale.errors import RequestError

_UNIT = re.compile(r"(?P<name>.+?)\s*[\[(](?P<unit>[^\[\]()]+)[\])]\s*")


@dataclass(frozen=True)
class Column:
    """A column's heading, read as "name (unit)" or "name [unit]" where it has that form."""

    heading: str
    name: str
    unit: str = ""

    @classmethod
    def of(cls, heading: str) -> "Column":
        match = _UNIT.fullmatch(heading)
        return cls(heading, match["name"], match["unit"].strip()) if match else cls(heading, heading)


class TableSource(TablePictures):
    """Pictures with one or several numbers each.

    Attributes:
      table: the file.
      names: of the numbers, in order.
      units: theirs, "" for none.
      values: (N, numbers) float64.
      paths: of the pictures, relative to `root` or absolute.
      weights: (N,) float64, how much each picture counts in training; None for all alike.
      notes: lines on which column was taken for what.
    """

    def __init__(
        self,
        table: Path,
        root: Path,
        names: Sequence[str],
        units: Sequence[str],
        paths: Iterable[str],
        values: np.ndarray,
        weights: np.ndarray | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """
        Args:
          root: what relative paths are relative to.
        """
        super().__init__(root, paths, values, weights)
        self.table = table
        self.notes = tuple(notes)
        self.names = tuple(names)
        self.units = tuple(units)

    @property
    def values(self) -> np.ndarray:
        """The targets."""
        return self.targets


def open_table(
    file: str | Path,
    split: str,
    *,
    val_fraction: float,
    seed: int,
    numbers: Sequence[str] = (),
    columns: TableColumns | None = None,
    root: str | Path | None = None,
) -> TableSource:
    """One split of a table.

    A column "split" with train and val says which row belongs where; without one, `val_fraction` of the rows is held
    out, by the digests of their paths.

    Args:
      file: .csv (comma, semicolon or tab), .tsv, .jsonl or .parquet.
      split: "train", "val" or "all".
      numbers: columns to learn, without their units; () for all columns but the path, the split and the weight.
      columns: which columns are what.
      root: what paths are relative to; None is the table's folder.

    Raises:
      RequestError: the file, a column or a picture is missing, or a number is not one; the row is named.
      WorkError: the file cannot be read.
    """
    columns = columns or RECOGNISED
    table = read_table(file, "numbers")
    base = table.file.parent if root is None else Path(root).expanduser()
    place = table.path_column(columns.path)
    part, weight = table.column(columns.split, (SPLIT_NAME,)), table.column(columns.weight)
    chosen = _numbers(table, {place, part, weight, *table.further_paths(place)}, numbers)
    paths = table.paths(place)
    _check_once(table, paths)
    check_files(table, paths, base)
    headings = [Column.of(table.headings[column]) for column in chosen]
    hint = "" if numbers else "; say which columns to learn: task.targets"
    values = [[read_number(table, row, column, hint) for column in chosen] for row in table.rows]
    names, units = [c.name for c in headings], [c.unit for c in headings]
    used: dict[str, int | None] = {"path": place, **table.further_columns(place), "split": part, "weight": weight}
    used |= {f"number{'' if i == 0 else f' {i + 1}'}": column for i, column in enumerate(chosen)}
    notes = (f"{table.file.name}: {columns_text(table, used)}",)
    numbers_of = np.array(values, np.float64), read_weights(table, weight)
    whole = TableSource(table.file, base, names, units, paths, *numbers_of, notes)
    if split == "all":
        return whole
    if part is None:
        return part_of(whole, paths, np.zeros(len(paths), np.int32), split, val_fraction, seed, str(table.file))
    return whole.select(np.flatnonzero(row_splits(table, part) == split))


def read_number(table: Table, row: Row, column: int, hint: str = "") -> float:
    """A cell as a finite number. Raises RequestError."""
    cell, heading = row.text(column), table.headings[column]
    try:
        value = float(cell)
    except ValueError:
        comma = "; write decimals with a point" if re.fullmatch(r"[-+]?\d+,\d+", cell) else ""
        raise RequestError(
            f"{table.file}: row {row.number}: '{cell[:40]}' in the column '{heading}' is no number{comma or hint}"
        ) from None
    if not math.isfinite(value):
        raise RequestError(f"{table.file}: row {row.number}: {cell} in the column '{heading}' is not finite")
    return value


def read_weights(table: Table, column: int | None) -> np.ndarray | None:
    """(rows,) float64 above 0; None without a column. Raises RequestError."""
    if column is None:
        return None
    found = np.array([read_number(table, row, column) for row in table.rows], np.float64)
    if (bad := np.flatnonzero(found <= 0)).size:
        row = table.rows[int(bad[0])]
        raise RequestError(
            f"{table.file}: row {row.number}: the weight {row.text(column)} is not above 0 ({bad.size} such); leave "
            "out rows that are not to be learnt"
        )
    return found


def _numbers(table: Table, taken: set[int | None], wanted: Sequence[str]) -> list[int]:
    """Positions of the columns of numbers."""
    known = {Column.of(heading).name: place for place, heading in enumerate(table.headings)}
    for name in wanted:
        if name not in known:
            raise RequestError(f"{table.file}: has no column '{name}'{others(name, known)}")
    found = [known[name] for name in wanted] or [i for i in range(len(table.headings)) if i not in taken]
    if not found:
        path = next(table.headings[i] for i in sorted(x for x in taken if x is not None))
        raise RequestError(f"{table.file}: has no column of numbers beside '{path}'")
    return found


def _check_once(table: Table, paths: Sequence[str]) -> None:
    rows: dict[str, int] = {}
    for row, path in zip(table.rows, paths, strict=True):
        before = rows.setdefault(one_spelling(path), row.number)
        if before != row.number:
            raise RequestError(
                f"{table.file}: row {row.number} names {path}, which row {before} does too; keep one of them"
            )
