"""Hugging Face parquet shards with a column of pictures and one of masks."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.data.decode import upright_size
from crosscale.data.parquet import IMAGE_NAMES, LABEL_NAMES, RowGroups, first_schema, import_parquet
from crosscale.data.shards import choose_shards, find_shards
from crosscale.errors import RequestError, WorkError

PICTURE_NAMES = (*IMAGE_NAMES, "pixel_values", "picture")
MASK_NAMES = ("mask", "annotation", "label", "labels", "segmentation", "segmentation_mask", "semantic_mask", "seg")


@dataclass(frozen=True)
class PairRows:
    """Pictures and masks in the rows of parquet files."""

    rows: RowGroups

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def blocks(self) -> np.ndarray:
        """Where each row group begins (`RowGroups`)."""
        return self.rows.blocks

    def names(self, index: int) -> tuple[str, str]:
        """The row's name, and that with the mask's column."""
        name = self.rows.record_id(index)
        return name, f"{name} ({self.rows.columns[-1]})"

    def picture(self, index: int) -> bytes:
        """The encoded picture. Raises BadImage."""
        return self.rows.picture(index, self.rows.columns[0])

    def mask(self, index: int) -> bytes:
        """The encoded mask. Raises BadImage."""
        return self.rows.picture(index, self.rows.columns[-1])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture; the row group is read for it. Raises BadImage."""
        return upright_size(self.picture(index), self.names(index)[0])

    def masks_alone(self) -> "PairRows":
        """The same masks, without reading the pictures beside them."""
        return PairRows(RowGroups(self.rows.files, self.rows.columns[-1:], self.rows.groups, self.rows.rows))

    def select(self, indices: np.ndarray) -> "PairRows":
        """Some of the pairs, sorted."""
        return PairRows(self.rows.select(indices))


def has_mask_shards(root: Path) -> bool:
    """Whether a folder holds parquet shards with a column of masks and none of labels.

    Raises:
      RequestError: pyarrow is not installed.
    """
    schema = first_schema(root)
    if schema is None:
        return False
    columns = _mask_columns(schema)
    return columns is not None and not {*LABEL_NAMES} & {*schema.names} - {*columns}


def open_mask_shards(root: Path) -> dict[str, PairRows]:
    """The parts of a folder of shards: "train" and "val", or "all" where they come as one.

    Raises:
      RequestError: no two columns of pictures and masks, or no shards to train on.
      WorkError: a shard is cut short.
    """
    found = find_shards(root, ".parquet")
    if len(found) == 1:
        return {"all": _read(choose_shards(root, found, "all")[0])}
    files, one_part = choose_shards(root, found, "train")
    if one_part:
        return {"all": _read(files)}
    return {"train": _read(files), "val": _read(choose_shards(root, found, "val")[0])}


def _read(files: list[Path]) -> PairRows:
    pq = import_parquet()
    groups: list[tuple[int, int, int]] = []
    columns: tuple[str, str] | None = None
    for number, file in enumerate(files):
        try:
            with pq.ParquetFile(file) as opened:
                schema, metadata = opened.schema_arrow, opened.metadata
                groups += [(number, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
        except Exception as error:  # ArrowInvalid, OSError
            reason = " ".join(str(error).split())[:200]
            raise WorkError(f"{file}: the shard is cut short or no parquet file ({reason}); copy it again") from None
        columns = columns or _mask_columns(schema)
        if columns is None or not set(columns) <= set(schema.names):
            raise RequestError(
                f"{file}: has the columns {', '.join(schema.names)}; one of {', '.join(PICTURE_NAMES)} with the "
                f"picture and one of {', '.join(MASK_NAMES)} with the mask are needed"
            )
    if columns is None or not any(rows for _, _, rows in groups):
        raise RequestError(f"{files[0].parent}: the {len(files)} .parquet files hold no rows")
    return PairRows(RowGroups(files, columns, np.asarray(groups, np.int64)))


def _mask_columns(schema: Any) -> tuple[str, str] | None:
    """The columns of pictures and of masks, both of encoded pictures; None where there are no two."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        typed = [name for name, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "Image"]
    except (KeyError, ValueError, TypeError, AttributeError):
        typed = []
    encoded = [
        field.name for field in schema if field.name in typed or str(field.type).startswith(("struct<bytes", "binary"))
    ]
    picture = next((name for name in PICTURE_NAMES if name in encoded), None)
    mask = next((name for name in MASK_NAMES if name in encoded and name != picture), None)
    return None if picture is None or mask is None else (picture, mask)
