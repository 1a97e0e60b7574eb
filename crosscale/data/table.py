"""A table of pictures and numbers as a source: a CSV or Parquet file with a column of paths."""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from crosscale.contracts import Record
from crosscale.data.decode import open_image
from crosscale.data.names import split_of
from crosscale.data.once import shared
from crosscale.data.split import part_of
from crosscale.data.strings import Strings
from crosscale.errors import RequestError, WorkError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".parquet")
PATH_NAMES = ("path", "image", "file", "filename", "file_name", "image_path")
SHOWN = 10  # files that are missing, in an error

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


class TableSource:
    """Pictures with one or several numbers each.

    Attributes:
      names: of the numbers, in order.
      units: theirs, "" for none.
      values: (N, numbers) float64.
      paths: of the pictures, relative to the table or absolute.
    """

    def __init__(
        self, root: Path, names: Sequence[str], units: Sequence[str], paths: Iterable[str], values: np.ndarray
    ) -> None:
        """
        Args:
          root: what relative paths are relative to.
        """
        self.root = root
        self.names = tuple(names)
        self.units = tuple(units)
        self.paths = paths if isinstance(paths, Strings) else Strings.of(list(paths))
        self.values = values

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return Record(path, open_image(self.root / path), self.values[index])

    def select(self, indices: np.ndarray) -> "TableSource":
        """The same table with only these examples."""
        paths = [self.paths[int(index)] for index in indices]
        return TableSource(self.root, self.names, self.units, paths, self.values[indices])


def open_table(
    file: str | Path,
    split: str,
    *,
    val_fraction: float,
    seed: int,
    columns: Sequence[str] = (),
    path_column: str | None = None,
) -> TableSource:
    """One split of a table.

    A column "split" with train and val says which row belongs where; without one, `val_fraction` of the rows is held
    out, by the digests of their paths.

    Args:
      file: .csv (comma, semicolon or tab), .tsv or .parquet.
      split: "train", "val" or "all".
      columns: names of the numbers, without their units; () for all columns but the path and the split.
      path_column: the column of paths; None is the first of `PATH_NAMES` that is there.

    Raises:
      RequestError: the file, a column or a picture is missing, or a number is none; the row is named.
      WorkError: the file cannot be read.
    """
    file = Path(file).expanduser()
    if file.suffix.lower() not in SUFFIXES or not file.is_file():
        raise RequestError(
            f"{file}: {'not a table' if file.exists() else 'no such file'}; give a .csv or .parquet file with a column "
            f"of paths ({', '.join(PATH_NAMES[:4])}) and one or more of numbers"
        )
    headings, rows = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file)
    places = _find_columns(file, headings, columns, path_column)
    paths = _paths(file, rows, places["path"][0])
    chosen = [Column.of(headings[place]) for place in places["numbers"]]
    hint = "" if columns else "; say which columns to learn: task.targets"
    values = np.array(
        [
            [_number(file, row, cells[place], headings[place], hint) for place in places["numbers"]]
            for row, cells in rows
        ],
        np.float64,
    )
    whole = TableSource(file.parent, [c.name for c in chosen], [c.unit for c in chosen], paths, values)
    if split == "all":
        return whole
    if places["split"]:
        held_out = np.array([_split(file, row, cells[places["split"][0]]) == "val" for row, cells in rows])
        for part, there in (("train", ~held_out), ("val", held_out)):
            if not there.any():
                raise RequestError(f"{file}: no row of the column '{headings[places['split'][0]]}' says {part}")
    else:
        return part_of(whole, paths, np.zeros(len(paths), np.int32), split, val_fraction, seed, str(file))
    return whole.select(np.flatnonzero(held_out if split == "val" else ~held_out))


Rows = list[tuple[int, Sequence[str]]]  # number of the row as an editor counts lines, its cells


@shared
def _read_csv(file: Path) -> tuple[list[str], Rows]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{file}: not UTF-8 text; save the table as CSV UTF-8") from None
    except OSError as error:
        raise WorkError(f"{file}: cannot be read ({error.strerror or error})") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max((",", ";", "\t"), key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(c.strip() for c in cells)]
    if len(rows) < 2:
        raise RequestError(f"{file}: holds no rows below its headings")
    headings = list(rows[0][1])
    for number, cells in rows[1:]:
        if len(cells) != len(headings):
            raise RequestError(
                f"{file}: line {number} has {len(cells)} cells, the headings {len(headings)}; quote a cell that holds "
                f"a '{delimiter}'"
            )
    return headings, [(number, cells) for number, cells in rows[1:]]


@shared
def _read_parquet(file: Path) -> tuple[list[str], Rows]:
    from crosscale.data.parquet import import_parquet

    try:
        table = import_parquet().read_table(file)
    except RequestError:
        raise
    except Exception as error:  # pyarrow raises ArrowInvalid, OSError and more for damaged files
        raise WorkError(f"{file}: damaged or no Parquet file ({str(error).splitlines()[0]})") from None
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in table.columns]
    if not table.num_rows:
        raise RequestError(f"{file}: holds no rows")
    return list(table.column_names), list(enumerate(zip(*columns, strict=True), 1))


def _find_columns(
    file: Path, headings: Sequence[str], wanted: Sequence[str], path_column: str | None
) -> dict[str, list[int]]:
    """Positions of the columns by what they are: "path", "split" (perhaps none) and "numbers"."""
    for heading in headings:
        if list(headings).count(heading) > 1:
            raise RequestError(f"{file}: the heading '{heading}' stands twice; rename one of the columns")
    lower = [heading.lower() for heading in headings]
    if path_column is not None and path_column not in headings:
        raise RequestError(f"{file}: has no column '{path_column}'{_others(path_column, headings)}")
    names = [path_column.lower()] if path_column is not None else [name for name in PATH_NAMES if name in lower]
    if not names:
        raise RequestError(
            f"{file}: none of its columns ({', '.join(headings)}) is of paths; call it 'path', or say which: "
            "task.path_column"
        )
    path = lower.index(names[0])
    split = [place for place, name in enumerate(lower) if name == "split"]
    known = {Column.of(heading).name: place for place, heading in enumerate(headings)}
    for name in wanted:
        if name not in known:
            raise RequestError(f"{file}: has no column '{name}'{_others(name, known)}")
    numbers = [known[name] for name in wanted] or [
        place for place in range(len(headings)) if place != path and place not in split
    ]
    if not numbers:
        raise RequestError(f"{file}: has no column of numbers beside '{headings[path]}'")
    return {"path": [path], "split": split, "numbers": numbers}


def _paths(file: Path, rows: Rows, column: int) -> list[str]:
    paths: list[str] = []
    missing: list[tuple[int, str]] = []
    lines: dict[str, int] = {}
    for row, cells in rows:
        path = cells[column]
        if "\\" in path:  # a table that was made under Windows
            path = PureWindowsPath(path).as_posix()
        if path in lines:
            raise RequestError(f"{file}: row {row} names {path}, which row {lines[path]} does too; keep one of them")
        lines[path] = row
        if not path or not (file.parent / path).is_file():
            missing.append((row, path or "(no path)"))
        paths.append(path)
    if missing:
        named = ", ".join(f"{path} (row {row})" for row, path in missing[:SHOWN])
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise RequestError(
            f"{file}: {len(missing)} of its {len(rows)} pictures are missing: {named}{more}; paths are relative to "
            f"{file.parent}"
        )
    return paths


def _number(file: Path, row: int, cell: str, heading: str, hint: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        comma = "; write decimals with a point" if re.fullmatch(r"[-+]?\d+,\d+", cell) else ""
        raise RequestError(
            f"{file}: row {row}: '{cell[:40]}' in the column '{heading}' is no number{comma or hint}"
        ) from None
    if not math.isfinite(value):
        raise RequestError(f"{file}: row {row}: {cell} in the column '{heading}' is not finite")
    return value


def _split(file: Path, row: int, cell: str) -> str:
    part = split_of(cell)
    if not part:
        raise RequestError(f"{file}: row {row}: the split '{cell[:40]}' is neither train nor val")
    return "train" if part == "train" else "val"


def _others(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return did_you_mean(name, names) or f"; it has {', '.join(names)}"
