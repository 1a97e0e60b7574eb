"""Results of any number of pictures as one file, written as they come, which a killed run goes on with."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from crosscale.errors import RequestError, WorkError

SUFFIXES = (".csv", ".parquet", ".jsonl")
_PART = 10_000  # rows that a Parquet file takes at once

Cells = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class ResultsFile:
    """While results come, `FILE.partial` has a line of JSON for each, below a line on their origin; at the end the
    file is made of it, whole or not at all.

    Attributes:
      count: results so far, those of an earlier run among them.
      failed: those of pictures that could not be used.
    """

    def __init__(self, file: Path, about: Mapping[str, Any], *, resume: bool, part: int = 1) -> None:
        """
        Args:
          file: its suffix says the format.
          about: what the results depend on besides the pictures, in JSON's types; going on takes the same.
          resume: go on with what is there.
          part: results that are computed together. Going on keeps only whole parts, so that pictures share their
            batch with the same others as if nothing had happened, and their results are equal to the last bit.

        Raises:
          RequestError: nothing can be written there, another process writes there, a stopped run left results and
            nobody asked to go on with them, or those come from something else.
        """
        self.file, self.partial = file, file.with_name(f"{file.name}.partial")
        self.count = self.failed = 0
        self._part, self._done = part, Counter[str]()
        if file.suffix.lower() == ".parquet":
            from crosscale.data.parquet import import_parquet

            import_parquet()  # refused now where it is not installed
        if not file.parent.is_dir():
            raise RequestError(f"--output {file}: there is no folder {file.parent}")
        self._lock = filelock.FileLock(f"{self.partial}.lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RequestError(f"--output {file}: another process is writing it") from None
        except OSError as error:
            raise RequestError(f"--output {file}: cannot be written ({error.strerror or error})") from None
        try:
            self._open({"about": about}, resume)
        except BaseException:
            self._release()
            raise

    def remaining(self, pictures: Iterable[Any]) -> list[Any]:
        """Those without a result yet, in order: paths, or what else `str` names."""
        left = self._done.copy()
        found = []
        for picture in pictures:
            if left[str(picture)]:
                left[str(picture)] -= 1
            else:
                found.append(picture)
        return found

    def add(self, result: Mapping[str, Any]) -> None:
        """A picture's result, as JSON. Raises WorkError."""
        self._write(result)
        self.count += 1
        self.failed += result["error"] is not None
        if self.count % self._part == 0:
            self._flush()

    def finish(self, cells: Cells) -> None:
        """Makes the file. Raises WorkError.

        Args:
          cells: of a result, what stands in a table besides its path and its error.
        """
        self._flush()
        new = self.file.with_name(f".{self.file.name}.new")
        try:
            if self.file.suffix.lower() == ".jsonl":
                with new.open("w", encoding="utf-8") as stream:
                    stream.writelines(f"{json.dumps(result)}\n" for result in self._results())
            else:
                kinds = _kinds(_row(result, cells) for result in self._results())
                rows = (_row(result, cells) for result in self._results())
                (_write_csv if self.file.suffix.lower() == ".csv" else _write_parquet)(new, kinds, rows)
            os.replace(new, self.file)
            self.partial.unlink()
        except OSError as error:
            raise WorkError(f"{self.file}: cannot be written ({error.strerror or error})") from None

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disc; the error under way says so
            self._stream.close()
        self._release()

    def _open(self, header: Mapping[str, Any], resume: bool) -> None:
        try:
            kept = self._kept(header, resume)
            self._stream = self.partial.open("r+b" if kept else "wb")
            self._stream.truncate(kept)
            self._stream.seek(kept)
        except OSError as error:
            raise RequestError(f"--output {self.file}: cannot be written ({error.strerror or error})") from None
        if not kept:
            self._write(header)
            self._flush()

    def _kept(self, header: Mapping[str, Any], resume: bool) -> int:
        """The bytes of what an earlier run left that are kept; counts the results in them. Raises RequestError."""
        lines = _whole_lines(self.partial)
        first = next(lines, None)
        if first is None:
            return 0
        if not resume:
            several = sum(1 for _ in lines)
            raise RequestError(
                f"--output {self.file}: a run that was stopped left {several:,} results in {self.partial}; --resume "
                "goes on with them, and without that file the work begins anew"
            )
        about, end = first[0].get("about"), first[1]
        for key, value in json.loads(json.dumps(header["about"])).items():
            if not isinstance(about, dict) or about.get(key) != value:
                old = about.get(key) if isinstance(about, dict) else None
                raise RequestError(
                    f"--resume: {self.partial} was begun with {key}={old}, not {value}; go on with the same, or begin "
                    "anew without that file"
                )
        waiting: list[tuple[str, bool]] = []
        for result, after in lines:
            waiting.append((str(result.get("source")), result.get("error") is not None))
            if len(waiting) == self._part:
                self._done.update(source for source, _ in waiting)
                self.failed += sum(failed for _, failed in waiting)
                self.count += len(waiting)
                waiting, end = [], after
        return end

    def _results(self) -> Iterator[dict[str, Any]]:
        lines = _whole_lines(self.partial)
        next(lines)
        return (result for result, _ in lines)

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise WorkError(f"{self.partial}: cannot be written ({error.strerror or error})") from None

    def _flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise WorkError(f"{self.partial}: cannot be written ({error.strerror or error})") from None

    def _release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def flat(plain: Mapping[str, Any]) -> dict[str, Any]:
    """JSON as one row: a cell for each key of a mapping, texts joined by "|", other lists as JSON."""
    cells: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            cells |= {f"{name}/{key}": inner for key, inner in flat(value).items()}
        elif isinstance(value, list | tuple):
            texts = all(isinstance(item, str) for item in value)
            cells[name] = "|".join(value) if texts else json.dumps(value)
        else:
            cells[name] = value
    return cells


def _row(result: Mapping[str, Any], cells: Cells) -> dict[str, Any]:
    return {"path": result["source"], **flat(cells(result)), "error": result["error"]}


def _whole_lines(file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each line's object and where it ends, up to the first that is torn; none where there is no file."""
    if not file.exists():
        return
    end = 0
    with file.open("rb") as stream:
        for line in stream:
            end += len(line)
            try:
                found = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(found, dict):
                return
            yield found, end


def _kinds(rows: Iterable[Mapping[str, Any]]) -> dict[str, type]:
    """The type of each column's cells, text where they differ; the columns as they come, "error" last."""
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).update({type(value)} if value is not None else ())
    kinds["error"] = kinds.pop("error", set())
    return {
        name: found.pop() if len(found) == 1 else float if found == {int, float} else str
        for name, found in kinds.items()
    }


def _write_csv(file: Path, kinds: Mapping[str, type], rows: Iterable[Mapping[str, Any]]) -> None:
    # A path may hold bytes that are no text; they are written as they are.
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.DictWriter(stream, kinds, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(file: Path, kinds: Mapping[str, type], rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]

    from crosscale.data.parquet import import_parquet

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])

    def table(part: list[Mapping[str, Any]]) -> Any:
        columns = {name: [as_column(kind, row.get(name)) for row in part] for name, kind in kinds.items()}
        return pa.table(columns, schema=schema)

    with import_parquet().ParquetWriter(file, schema) as writer:
        part: list[Mapping[str, Any]] = []
        for row in rows:
            part.append(row)
            if len(part) == _PART:
                writer.write_table(table(part))
                part = []
        if part:
            writer.write_table(table(part))


def as_column(kind: type, value: Any) -> Any:
    """A cell as Parquet takes it: text without the bytes of a name that are none, which are spelt out."""
    if value is None or kind is not str:
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()
