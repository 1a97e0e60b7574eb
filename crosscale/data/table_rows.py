"""A table of pictures, read in one way for every task: CSV, Parquet or JSON lines with a column of paths."""

import csv
import io
import json
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from crosscale.data.names import split_of
from crosscale.data.once import shared
from crosscale.data.pictures import SEPARATOR
from crosscale.data.text_lists import decoded
from crosscale.errors import RequestError, WorkError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
PATH_NAMES = ("path", "image", "file", "filename", "file_name", "image_path")
SPLIT_NAME = "split"
_ROW_NUMBERS = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # what pandas calls a column of its index
_LONG = 240  # letters of a path, beyond which an error shows its beginning
_NO_TEXT = ", and a cell holds the path of a file, not the picture itself as text"
SHOWN = 10  # rows that are wrong, in an error

Cell = str | tuple[str, ...]  # a tuple is a list of a Parquet file or of JSON


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table are what; None recognises a column by its heading.

    Attributes:
      path: of the pictures; None is the first of `PATH_NAMES` that is there.
      split: that says train or val; None is "split", where there is one.
      weight: how much each picture counts in training; None is for the reader to recognise, or none.
      label: the class; None is for the reader to recognise.
    """

    path: str | None = None
    split: str | None = None
    weight: str | None = None
    label: str | None = None


RECOGNISED = TableColumns()  # every column by its heading


@dataclass(frozen=True)
class Row:
    """Cells, and the number of the row as an editor counts lines (of Parquet from 1)."""

    number: int
    cells: Sequence[Cell]

    def text(self, column: int) -> str:
        """A cell as text; for a list, its entries with a comma between them."""
        cell = self.cells[column]
        return cell if isinstance(cell, str) else ", ".join(cell)


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes:
      file: that it is in.
      headings: of the columns, each of them once.
    """

    file: Path
    headings: tuple[str, ...]
    rows: Sequence[Row] = field(repr=False)

    def column(self, wanted: str | None, usual: Sequence[str] = ()) -> int | None:
        """The position of the column of a name, or of the first of the usual ones (in any case) that is there.

        Raises RequestError where a wanted one is not there.
        """
        if wanted is not None:
            if wanted not in self.headings:
                raise RequestError(f"{self.file}: has no column '{wanted}'{others(wanted, self.headings)}")
            return self.headings.index(wanted)
        lower = [heading.lower() for heading in self.headings]
        return next((lower.index(name) for name in usual if name in lower), None)

    def path_column(self, wanted: str | None) -> int:
        """The position of the column of paths. Raises RequestError."""
        found = self.column(wanted, PATH_NAMES)
        if found is None:
            raise RequestError(
                f"{self.file}: none of its columns ({', '.join(self.headings)}) holds paths; call one 'path', or say "
                "which: task.path_column"
            )
        return found

    def paths(self, column: int) -> list[str]:
        """The rows' paths, with "/" between their parts also where the table was made under Windows.

        Those of a row's further pictures follow behind "::".
        """
        columns = (column, *self.further_paths(column))
        found = ([row.text(place) for place in columns] for row in self.rows)
        return [SEPARATOR.join(PureWindowsPath(p).as_posix() if "\\" in p else p for p in parts) for parts in found]

    def further_columns(self, column: int) -> dict[str, int | None]:
        """What they are called -> their positions."""
        return {self.headings[place]: place for place in self.further_paths(column)}

    def further_paths(self, column: int) -> list[int]:
        """The columns of a row's further pictures: of the paths' heading and "_2", "_3" and so on."""
        wanted = (f"{self.headings[column]}_{number}" for number in count(2))
        return [self.headings.index(name) for name in takewhile(lambda name: name in self.headings, wanted)]


def is_table(place: str | Path) -> bool:
    """Whether a place is a table by its name, and a file."""
    path = Path(place).expanduser()
    return path.suffix.lower() in SUFFIXES and os.path.isfile(path)


def read_table(file: str | Path, of: str) -> Table:
    """A table with at least one row.

    A CSV file has commas, semicolons or tabs between its cells (also as Excel says with "sep=;"), UTF-8 or UTF-16;
    blank lines count for nothing. Of JSON lines and Parquet a cell may be a list, and a missing one is empty.

    Args:
      of: what is wanted besides the paths, for the error: "numbers".

    Raises:
      RequestError: no such file, no table, or nothing in it.
      WorkError: the file cannot be read.
    """
    file = Path(file).expanduser()
    if not is_table(file):
        raise RequestError(
            f"{file}: {'not a table' if file.exists() else 'no such file'}; give a .csv, .jsonl or .parquet file with "
            f"a column of paths ({', '.join(PATH_NAMES[:4])}) and one or more of {of}"
        )
    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines}
    table: Table = readers.get(file.suffix.lower(), _read_csv)(file)
    for heading in table.headings:
        if table.headings.count(heading) > 1:
            raise RequestError(f"{file}: the heading '{heading}' appears twice; rename one of the columns")
    return _without_row_numbers(table)


def _without_row_numbers(table: Table) -> Table:
    """Without what pandas writes of its index: a first column of whole numbers without a heading, or named for it."""
    first = [row.text(0) for row in table.rows] if table.headings and not table.headings[0] else []
    counts = bool(first) and all(re.fullmatch(r"\d+", cell) for cell in first)
    kept = [
        place
        for place, heading in enumerate(table.headings)
        if not _ROW_NUMBERS.fullmatch(heading) and not (counts and place == 0)
    ]
    if len(kept) == len(table.headings):
        return table
    rows = [Row(row.number, [row.cells[place] for place in kept]) for row in table.rows]
    return Table(table.file, tuple(table.headings[place] for place in kept), rows)


def columns_text(table: Table, used: dict[str, int | None]) -> str:
    """Which column was taken for what, and which are not read, in words."""
    told = [f"{what} from '{table.headings[i]}'" for what, i in used.items() if i is not None]
    rest = [heading for i, heading in enumerate(table.headings) if i not in used.values()]
    return ", ".join(told) + (f"; not read: {', '.join(rest)}" if rest else "")


def check_no_root(root: str | Path | None, place: str | Path) -> None:
    """Raises RequestError for a root that is given for data whose pictures are found without one."""
    if root is not None:
        raise RequestError(f"data.root={root}: is for the paths of a table, and {place} is not one")


def check_files(table: Table, paths: Sequence[str], root: Path) -> None:
    """Raises RequestError for pictures that are not there: how many, and the first ten by name and row."""
    # os.path also takes what is too long for a path, such as the picture itself as text.
    missing = [
        f"{_shown(path)} (row {row.number})"
        for row, joined in zip(table.rows, paths, strict=True)
        for path in ([joined] if os.path.isfile(root / joined) else joined.split(SEPARATOR))
        if not path or not os.path.isfile(root / path)
    ]
    if missing:
        raise RequestError(
            f"{table.file}: {len(missing)} of its {len(table.rows)} pictures are missing: {first_of(missing)}; "
            f"paths are relative to {root}{_NO_TEXT if any(len(path) > _LONG for path in paths) else ''}"
        )


def _shown(path: str) -> str:
    """A path in an error; of a long text, which may be the picture itself, the beginning."""
    return path if 0 < len(path) <= _LONG else f"'{path[:40]}...' of {len(path):,} letters" if path else "(no path)"


def table_paths(file: str | Path) -> list[Path]:
    """The pictures of a table's rows, with "::" between several of a row. Raises RequestError, WorkError."""
    table = read_table(file, "anything else")
    return [
        Path(SEPARATOR.join(str(table.file.parent / part) for part in paths.split(SEPARATOR)))
        for paths in table.paths(table.path_column(None))
    ]


def one_spelling(paths: str) -> str:
    """A row's paths as they compare: "./a.png" is "a.png"."""
    return SEPARATOR.join(map(posixpath.normpath, paths.split(SEPARATOR)))


def row_splits(table: Table, column: int) -> np.ndarray:
    """(rows,) of "train", "val" and "" (left out: test rows, where there are val rows). Raises RequestError."""
    found = [split_of(row.text(column)) for row in table.rows]
    for row, part in zip(table.rows, found, strict=True):
        if not part:
            raise RequestError(
                f"{table.file}: row {row.number}: the split '{row.text(column)[:40]}' is neither train nor val"
            )
    test = "" if "val" in found else "val"
    parts = np.array([test if part == "test" else part for part in found])
    for part in ("train", "val"):
        if part not in parts:
            raise RequestError(f"{table.file}: no row of the column '{table.headings[column]}' says {part}")
    return parts


def first_of(words: Sequence[str]) -> str:
    """The first ten with commas, and how many more there are."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def others(name: str, known: Iterable[str]) -> str:
    """The end of an error on a name that is not there: the nearest one, or all there are."""
    names = list(known)
    return did_you_mean(name, names) or f"; it has {', '.join(names)}"


@shared
def _read_csv(file: Path) -> Table:
    text = decoded(_bytes(file), str(file))
    first = next((line for line in text.splitlines() if line.strip()), "")
    told = re.fullmatch(r'"?sep=(.)"?', first.strip() if first.strip() != "sep=" else "sep=\t")
    delimiter = told[1] if told else max((",", ";", "\t"), key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise RequestError(f"{file}: line {reader.line_num} is no line of a table ({error})") from None
    lines = [(number, cells) for number, cells in lines if any(cells)][1 if told else 0 :]
    if len(lines) < 2:
        raise RequestError(f"{file}: holds no rows below its headings")
    headings = lines[0][1]
    for number, cells in lines[1:]:
        if len(cells) != len(headings):
            raise RequestError(
                f"{file}: line {number} has {len(cells)} cells, the headings {len(headings)}; quote a cell that holds "
                f"a '{delimiter}'"
            )
    return Table(file, tuple(headings), [Row(number, cells) for number, cells in lines[1:]])


@shared
def _read_json_lines(file: Path) -> Table:
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", decoded(_bytes(file), str(file))), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{file}: line {number} is no JSON ({error})") from None
        if not isinstance(value, dict):
            raise RequestError(f'{file}: line {number} is no object such as {{"path": "a.jpg", "label": "cat"}}')
        found.append((number, value))
    if not found:
        raise RequestError(f"{file}: holds no rows")
    headings = tuple(dict.fromkeys(str(name) for _, value in found for name in value))
    rows = [Row(number, [_cell(value.get(name)) for name in headings]) for number, value in found]
    return Table(file, headings, rows)


@shared
def _read_parquet(file: Path) -> Table:
    from crosscale.data.parquet import import_parquet

    pq = import_parquet()
    try:
        names = pq.read_schema(file)
        inner = [item.name for item in names if "binary" in str(item.type)]
        table = pq.read_table(file, columns=[name for name in names.names if name not in inner])
    except Exception as error:  # pyarrow raises ArrowInvalid, OSError and more for damaged files
        raise WorkError(f"{file}: damaged or no Parquet file ({str(error).splitlines()[0]})") from None
    if inner and not set(PATH_NAMES) & {name.lower() for name in table.column_names}:
        raise RequestError(
            f"{file}: holds the pictures themselves ('{inner[0]}'); train and validate take its folder, and "
            f"crosscale data {file.parent} --write FOLDER makes picture files"
        )
    columns = [[_cell(cell) for cell in column.to_pylist()] for column in table.columns]
    if not table.num_rows:
        raise RequestError(f"{file}: holds no rows")
    rows = [Row(number, cells) for number, cells in enumerate(zip(*columns, strict=True), 1)]
    return Table(file, tuple(table.column_names), rows)


def _cell(value: Any) -> Cell:
    if isinstance(value, (list, tuple)):
        return tuple(str(_cell(item)) for item in value)
    return "" if value is None else str(value).strip()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise WorkError(f"{file}: cannot be read ({error.strerror or error})") from None
