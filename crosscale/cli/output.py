"""How results reach the user: a table for people, one JSON object for scripts."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

from crosscale.data.names import LONGEST
from crosscale.errors import RequestError
from crosscale.runtime import Lasting, printable, tell

# Tables written to a pipe or file have no terminal to fit: wide enough that no cell is ever cut.
PIPED_WIDTH = 400
_ROOM = 32  # bytes of what is put behind a name, such as "-1000000_overlay.png"
PROBLEMS = 10  # of a data set, that are printed


def print_json(result: Mapping[str, Any]) -> None:
    """Prints one JSON object on standard output. NaN and infinities, which JSON lacks, become null."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    print(json.dumps(_plain(result), ensure_ascii=not unicode, allow_nan=False))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    title: str | None = None,
    optional: Sequence[str] = (),
) -> None:
    """Prints rows of cells on standard output.

    Args:
      columns: the headings.
      rows: one cell a column; taken literally, without markup.
      right: the headings of the columns to align on the right (numbers).
      title: a line above the table.
      optional: headings of columns that a narrow terminal goes without, the first one first; a line says which.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    left_out: list[str] = []
    for name in optional:
        if _table_width(columns, rows, left_out) <= console.width:
            break
        left_out.append(name)
    if left_out:
        kept = [place for place, name in enumerate(columns) if name not in left_out]
        columns, rows = [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]
        note(f"no room for {', '.join(left_out)}; a wider terminal, a pipe and --json have all")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def _table_width(columns: Sequence[str], rows: Sequence[Sequence[str]], left_out: Sequence[str]) -> int:
    """Terminal columns that a table needs to fold no cell: a divider and a space on both sides of it between two
    columns, and an edge on either side."""
    from rich.cells import cell_len

    widths = [
        max(map(cell_len, [name, *cells])) for name, *cells in zip(columns, *rows, strict=True) if name not in left_out
    ]
    return sum(widths) + 3 * (len(widths) - 1) + 2


class Report(Protocol):
    """Tells a progress display how far the work is, and its phase where that changes."""

    def __call__(self, done: int, total: int, what: str | None = None) -> None: ...


@contextmanager
def progress_bar(what: str, *, verb: str | None = None) -> Iterator[Report]:
    """Shows a bar on standard error while the block runs, if a terminal shows it.

    Args:
      what: stands beside the bar until the block reports something else.
      verb: of the command, for work in phases of unlike length: the bar shows the time that has passed instead of
        what remains, and without a terminal every phase is a line.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        yield _lines(verb)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    clock = TimeRemainingColumn() if verb is None else TimeElapsedColumn()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), clock
    console = Console(file=cast(TextIO, Lasting(sys.stderr)))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int, what: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield report


def _lines(verb: str | None) -> Report:
    """A report that prints a line for every phase but the end, or nothing without a verb."""
    shown = None

    def report(done: int, total: int, what: str | None = None) -> None:
        nonlocal shown
        if verb is not None and what is not None and what != shown and done < total:
            shown = what
            note(f"crosscale {verb}: {what} ...")

    return report


def print_problems(problems: Sequence[str], none: str) -> None:
    """Prints the first of the lines on what is wrong, and how many there are; `none` where there are none."""
    if not problems:
        print(none)
        return
    more = f", the first {PROBLEMS}" if len(problems) > PROBLEMS else ""
    print(f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}{more}:")
    for line in problems[:PROBLEMS]:
        print(f"  {printable(line)}")


def bar(share: float, width: int) -> str:
    """A bar of up to `width` letters for a share in 0..1; the smallest that is not 0 has one."""
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    return ("\N{FULL BLOCK}" if unicode else "#") * max(round(width * share), int(share > 0))


def note(message: str) -> None:
    """Prints a line that is not a result, on standard error."""
    tell(printable(message))


def _plain(value: Any) -> Any:
    """The value in JSON's own types: tuples as lists, array scalars as numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and array scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value)


def check_outside(option: str, folder: Path, searched: Sequence[str], what: str) -> None:
    """Refuses a place for pictures where the next search would find them.

    Args:
      option: that gives the folder, for the error.
      searched: where pictures are looked for.
      what: is written, for the error: "the copies".

    Raises RequestError.
    """
    for word in searched:
        place = Path(word).expanduser()
        if os.path.isdir(place) and folder.expanduser().resolve().is_relative_to(place.resolve()):
            raise RequestError(
                f"{option} {folder}: lies in {place}, where {what} would be taken for further pictures; choose a "
                "folder outside"
            )


def short_stem(file: Any) -> str:
    """The name of a file without its end, cut where the files that are called after it would have too long a name."""
    stem: str = file.stem
    cut = os.fsencode(stem)[: LONGEST - _ROOM]
    return stem if len(os.fsencode(stem)) == len(cut) else cut.decode(errors="ignore")


def free_name(stem: str, taken: dict[str, int]) -> str:
    """`stem`, or `stem`-2 and so on where that name is taken already, in any case.

    Args:
      taken: each name that is, and the number that it was last given with; the new one is added.
    """
    key = stem.casefold()
    name, count = stem, taken.get(key, 1)
    while name.casefold() in taken:
        count += 1
        name = f"{stem}-{count}"
    taken[name.casefold()] = 1
    taken[key] = count
    return name
