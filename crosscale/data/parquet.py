"""Hugging Face parquet shards with an image column as a random-access source."""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.contracts import Record
from crosscale.data.decode import BadImage
from crosscale.data.flat_val import read_class_list
from crosscale.data.once import shared
from crosscale.data.shards import choose_shards, find_shards, label_numbers
from crosscale.data.split import part_of
from crosscale.errors import RequestError, WorkError

IMAGE_NAMES = ("image", "img", "jpg", "png", "webp")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class")
# A picture cannot be read without its row group, so a few of them stay: the order in which training visits the
# examples (see `crosscale.data.order`) keeps to that many at a time.
CACHED_BYTES = 256 << 20


class RowGroups:
    """Rows of parquet files, with some row groups kept in memory. Picklable; threads may share it.

    Attributes:
      files: the shards.
      columns: that are read.
      groups: (G, 3) int64, of each row group: file, number in it, rows.
      rows: (N,) int64, the examples' rows over all groups, sorted; None is every row.
      blocks: (G + 1,) int64, where each row group begins among the examples.
    """

    def __init__(
        self, files: Sequence[Path], columns: Sequence[str], groups: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        self.files = list(files)
        self.columns = list(columns)
        self.groups = groups
        self.rows = rows
        self.starts = np.concatenate([[0], np.cumsum(groups[:, 2])]).astype(np.int64)
        chosen = np.arange(self.starts[-1]) if rows is None else rows
        self.blocks = np.searchsorted(chosen, self.starts)
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._cached: OrderedDict[int, tuple[Any, int]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_cached")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.rows is None else len(self.rows)

    def record_id(self, index: int) -> str:
        """The shard's name and the row's number inside it."""
        group, row = self._place(index)
        file, _, _ = self.groups[group]
        first = int(np.searchsorted(self.groups[:, 0], file))
        return f"{self.files[int(file)].name}/{int(self.starts[group] - self.starts[first]) + row}"

    def picture(self, index: int, column: str) -> bytes:
        """The encoded picture in a column. Raises BadImage."""
        group, row = self._place(index)
        try:
            value = self._group(group).column(column)[row].as_py()
        except Exception as error:  # pyarrow raises ArrowInvalid, OSError and more for damaged pages
            file = self.files[int(self.groups[group, 0])]
            raise BadImage(self.record_id(index), f"{file} is damaged or cut short ({_first_line(error)})") from None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise BadImage(self.record_id(index), "the row holds no image bytes (a path alone cannot be read)")
        return data

    def select(self, indices: np.ndarray) -> "RowGroups":
        """Only these examples, which must be sorted."""
        return RowGroups(self.files, self.columns, self.groups, indices if self.rows is None else self.rows[indices])

    def _place(self, index: int) -> tuple[int, int]:
        row = index if self.rows is None else int(self.rows[index])
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        return group, row - int(self.starts[group])

    def _group(self, group: int) -> Any:
        with self._lock:  # of two threads that want one group, the second waits for the first's
            if group not in self._cached:
                pq = import_parquet()
                file, number, _ = (int(value) for value in self.groups[group])
                with pq.ParquetFile(self.files[file]) as opened:
                    table = opened.read_row_group(number, columns=self.columns)
                self._cached[group] = table, table.nbytes
                while len(self._cached) > 1 and sum(size for _, size in self._cached.values()) > CACHED_BYTES:
                    self._cached.popitem(last=False)
            self._cached.move_to_end(group)
            return self._cached[group][0]


class ParquetShards:
    """Labelled pictures in parquet files.

    Attributes:
      classes: class names, in label order.
      labels: (N,) int32.
      blocks: (number of row groups + 1,) int64, where each row group begins among the examples, for an order
        that reads each of them once.
    """

    def __init__(self, classes: Sequence[str], rows: RowGroups, labels: np.ndarray) -> None:
        """
        Args:
          rows: of one column, the pictures'.
        """
        self.classes: Sequence[str] = tuple(classes)
        self.rows = rows
        self.labels = np.asarray(labels, np.int32)
        self.blocks = rows.blocks

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        picture = self.rows.picture(index, self.rows.columns[0])
        return Record(self.rows.record_id(index), picture, int(self.labels[index]))

    def record_id(self, index: int) -> str:
        """The shard's name and the row's number inside it."""
        return self.rows.record_id(index)

    def select(self, indices: np.ndarray) -> "ParquetShards":
        """The same shards with only these examples, which must be sorted."""
        return ParquetShards(self.classes, self.rows.select(indices), self.labels[indices])


def open_parquet(root: Path, split: str, val_fraction: float, seed: int) -> ParquetShards:
    """One split of a folder of .parquet shards, as the Hugging Face hub holds them.

    The image column is a struct with "bytes", or binary; the label column holds numbers from 0 or names. Class
    names come from the files' own metadata, from classes.txt beside them, or are the numbers.

    Raises:
      RequestError: no such column, or a label outside the range.
      WorkError: a shard is cut short.
    """
    found = find_shards(root, ".parquet")
    files, one_part = choose_shards(root, found, split)
    schema, groups, values = _read(files)
    image, label, names = _columns(files[0], schema)
    names = names or read_class_list(root)
    if names is None and not one_part and split == "val":
        names = tuple(open_parquet(root, "train", val_fraction, seed).classes)
    labels, classes = label_numbers(values, names, f"{root}: column '{label}' of {split}")
    whole = ParquetShards(classes, RowGroups(files, [image], groups), labels)
    if not one_part or split == "all":
        return whole
    ids = [whole.rows.record_id(index) for index in range(len(whole))]
    return part_of(whole, ids, whole.labels, split, val_fraction, seed, str(root))


def import_parquet() -> Any:
    """pyarrow.parquet. Raises RequestError."""
    try:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError(
            "parquet shards are read with pyarrow, which is not installed: pip install 'crosscale[hub-datasets]'"
        ) from None
    return pq


def first_schema(root: Path) -> Any | None:
    """The columns of the first parquet shard in a folder; None where there is none, or reading it will report damage.

    Raises:
      RequestError: pyarrow is not installed.
    """
    files = [file for part in find_shards(root, ".parquet").values() for file in part] if root.is_dir() else []
    if not files:
        return None
    pq = import_parquet()
    try:
        return pq.read_schema(files[0])
    except Exception:  # pyarrow raises ArrowInvalid, OSError and more
        return None


@shared
def _read(files: Sequence[Path]) -> tuple[Any, np.ndarray, np.ndarray | list[str]]:
    """The first file's schema, the row groups (file, number, rows), and the label column of all."""
    pq = import_parquet()
    groups: list[tuple[int, int, int]] = []
    values: list[Any] = []
    schema = None
    for number, file in enumerate(files):
        try:
            with pq.ParquetFile(file) as opened:
                schema = schema if schema is not None else opened.schema_arrow
                metadata = opened.metadata
                groups += [(number, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
                _, label, _ = _columns(file, opened.schema_arrow)
                values += opened.read(columns=[label]).column(0).to_pylist()
        except RequestError:
            raise
        except Exception as error:  # ArrowInvalid, OSError
            raise WorkError(
                f"{file}: the shard is cut short or no parquet file ({_first_line(error)}); copy it again"
            ) from None
    if not values:
        raise RequestError(f"{files[0].parent}: the {len(files)} .parquet files hold no rows")
    missing = next((index for index, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise RequestError(f"{files[0].parent}: example {missing} has no label")
    labels = values if isinstance(values[0], str) else _whole(values, files[0].parent)
    return schema, np.asarray(groups, np.int64), labels


def _whole(values: list[Any], place: Path) -> np.ndarray:
    """Labels as whole numbers. Raises RequestError for one that is not."""
    for index, value in enumerate(values):
        if not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
            raise RequestError(
                f"{place}: the label of example {index} is {value!r}; labels are whole numbers from 0, or names"
            )
    return np.asarray(values, np.int64)


def _columns(file: Path, schema: Any) -> tuple[str, str, tuple[str, ...] | None]:
    """The image column, the label column, and the class names that the file's metadata gives."""
    features: dict[str, Any] = {}
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        features = {}
    kinds = {name: value.get("_type") for name, value in features.items() if isinstance(value, dict)}
    image = _named("Image", kinds, IMAGE_NAMES, schema.names)
    label = _named("ClassLabel", kinds, LABEL_NAMES, schema.names)
    if image is None or label is None:
        raise RequestError(
            f"{file}: has the columns {', '.join(schema.names)}; one of {', '.join(IMAGE_NAMES)} with the image and "
            f"one of {', '.join(LABEL_NAMES)} with the label are needed"
        )
    names = features.get(label, {}).get("names") if label in kinds else None
    return image, label, tuple(names) if names else None


def _named(kind: str, kinds: dict[str, Any], usual: Sequence[str], columns: Sequence[str]) -> str | None:
    typed = [name for name, found in kinds.items() if found == kind and name in columns]
    if len(typed) == 1:
        return typed[0]
    return next((name for name in usual if name in (typed or columns)), None)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
