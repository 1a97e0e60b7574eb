"""The layouts of pictures with boxes: how each is recognised, and what reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from crosscale.data.annotated import Annotated
from crosscale.data.coco_folder import find_coco, read_part
from crosscale.data.decode import open_image, upright_size
from crosscale.data.names import what_instead
from crosscale.data.object_parquet import has_object_shards, open_object_shards
from crosscale.data.once import shared
from crosscale.data.parquet import RowGroups
from crosscale.data.sources import has_shards
from crosscale.data.strings import Strings
from crosscale.data.voc_xml import is_voc, read_voc
from crosscale.data.yolo_folder import find_yolo, is_yolo, read_yolo
from crosscale.errors import RequestError

KNOWN = (
    "annotations/instances_{train,val}*.json or train.json and val.json with their pictures (COCO), "
    "{train,valid}/_annotations.coco.json (Roboflow), images/{train,val} with labels/{train,val}/*.txt (YOLO), "
    "Annotations/*.xml with JPEGImages/ or .xml files beside their pictures (Pascal VOC), or parquet shards with a "
    "column objects"
)


class PictureReader(Protocol):
    """Pictures as encoded files, wherever they lie. Must be picklable."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> bytes:
        """Raises BadImage."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture, from its header. Raises BadImage."""
        ...

    def select(self, indices: np.ndarray) -> Self:
        """Some of the pictures."""
        ...


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in files of their own, given relative to `root`."""

    root: Path
    paths: Strings

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> bytes:
        """The file. Raises BadImage."""
        return open_image(self.root / self.paths[index])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture, from its header. Raises BadImage."""
        return upright_size(self.root / self.paths[index], self.paths[index])

    def select(self, indices: np.ndarray) -> "PictureFiles":
        """Some of the pictures."""
        return PictureFiles(self.root, Strings.of([self.paths[int(index)] for index in indices]))


@dataclass(frozen=True)
class PictureRows:
    """Pictures in the rows of parquet files, in one column."""

    rows: RowGroups

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def blocks(self) -> np.ndarray:
        """Where each row group begins (`RowGroups`)."""
        return self.rows.blocks

    def picture(self, index: int) -> bytes:
        """The encoded picture. Raises BadImage."""
        return self.rows.picture(index, self.rows.columns[0])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture; the row group is read for it. Raises BadImage."""
        return upright_size(self.picture(index), self.rows.record_id(index))

    def select(self, indices: np.ndarray) -> "PictureRows":
        """Some of the pictures, sorted."""
        return PictureRows(self.rows.select(indices))


Parts = dict[str, tuple[PictureReader, Annotated]]


def has_objects(place: str | Path) -> bool:
    """Whether a data set on the disc holds pictures with boxes, by its files' names or its shards' columns."""
    root = Path(place).expanduser()
    return any(fits(root) for _, fits, _ in LAYOUTS)


@shared
def read_parts(root: Path, masks: bool, lenient: bool) -> tuple[str, Parts]:
    """The layout's name, and the parts "train" and "val", or "all" where the data comes as one.

    Args:
      masks: whether segmentations are kept.
      lenient: pictures that are missing are left out, which the parts' `refused` names.

    Raises:
      RequestError: no such layout, or files that are damaged.
      WorkError: a shard is damaged.
    """
    if not root.exists():
        raise RequestError(f"{root}: no such folder; give one with {KNOWN}")
    for name, fits, read in LAYOUTS:
        if fits(root):
            parts = read(root, masks, lenient)
            held_out = next((part for part in ("val", "test") if part in parts), None)
            if "all" in parts:
                return name, {"all": parts["all"]}
            if "train" not in parts:
                raise RequestError(f"{root}: has the parts {', '.join(parts)}, so there is nothing to train on")
            if held_out is None:
                return name, {"all": parts["train"]}
            return name, {"train": parts["train"], "val": parts[held_out]}
    unknown = what_instead(root) if root.is_file() else "no pictures with boxes are recognised"
    raise RequestError(f"{root}: {unknown}; give a folder with {KNOWN}")


def _coco(root: Path, masks: bool, lenient: bool) -> Parts:
    files = find_coco(root)
    folder = root.parent if root.is_file() else root
    wanted = {split: file for split, file in files.items() if split != "test" or "val" not in files}
    read = {split: read_part(folder, file, masks, lenient=lenient) for split, file in wanted.items()}
    return {split: (PictureFiles(folder, part.pictures), part) for split, part in read.items()}


def _yolo(root: Path, masks: bool, lenient: bool) -> Parts:
    folder = find_yolo(root)
    wanted = [part for part in folder.parts if part != "test" or "val" not in folder.parts]
    read = {part: read_yolo(root, folder, part, masks) for part in wanted}
    return {split: (PictureFiles(root, part.pictures), part) for split, part in read.items()}


def _voc(root: Path, masks: bool, lenient: bool) -> Parts:
    return {split: (PictureFiles(root, part.pictures), part) for split, part in read_voc(root).items()}


def _parquet(root: Path, masks: bool, lenient: bool) -> Parts:
    return {split: (PictureRows(rows), part) for split, (rows, part) in open_object_shards(root, masks).items()}


def _has_shards(root: Path) -> bool:
    return root.is_dir() and has_shards(root, ".parquet") and has_object_shards(root)


# What it is called, whether a place is one, and what reads it.
LAYOUTS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path, bool, bool], Parts]], ...] = (
    ("COCO", lambda root: bool(find_coco(root)), _coco),
    ("YOLO", is_yolo, _yolo),
    ("Pascal VOC", is_voc, _voc),
    ("parquet shards", _has_shards, _parquet),
)
