"""Pascal VOC's folders: Annotations/*.xml beside JPEGImages/, and lists of the parts in ImageSets/Main/.

VOC counts pixels from 1 and takes the last one in: its box 1 1 W H is the whole picture, here 0 0 W H. Programs that
write the same files often count from 0; a 0 anywhere tells.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from crosscale.data.annotated import Annotated, crowded
from crosscale.data.class_table import LISTS
from crosscale.data.object_table import box_faults, make_table
from crosscale.data.once import shared
from crosscale.data.scan import entries, scan, subfolders
from crosscale.data.strings import Strings
from crosscale.data.text_lists import read_lines, read_names
from crosscale.errors import RequestError

ANNOTATIONS, PICTURES = "Annotations", "JPEGImages"
_LISTS = {"train": ("train", "trainval"), "val": ("val", "test")}


@dataclass
class _Found:
    """The objects of all files, in columns."""

    owners: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def is_voc(root: Path) -> bool:
    """Whether a folder has VOC's annotations of boxes, by the names of what it holds."""
    if not root.is_dir() or not {ANNOTATIONS, PICTURES} <= {*subfolders(root)}:
        return False
    return any(entry.name.lower().endswith(".xml") for entry in entries(root / ANNOTATIONS))


@shared
def read_voc(root: Path) -> dict[str, Annotated]:
    """The parts "train" and "val", or "all" where no lists name them.

    Difficult objects are as crowds: not learnt, and neither counted for nor against.

    Raises:
      RequestError: a list or a file that cannot be read, or names a picture that is not there.
    """
    there = {os.path.splitext(os.path.basename(path))[0]: path for path in scan(root, [PICTURES]).paths}
    listed = sorted(entry.name for entry in entries(root / ANNOTATIONS) if entry.name.lower().endswith(".xml"))
    stems = [os.path.splitext(name)[0] for name in listed]
    files = [f"{ANNOTATIONS}/{name}" for name in listed]
    missing = [
        f"{file}: there is no picture {stem} in {PICTURES}/; add it, or take the file out"
        for stem, file in zip(stems, files, strict=True)
        if stem not in there
    ]
    pairs = [(stem, file) for stem, file in zip(stems, files, strict=True) if stem in there]
    found, sizes = _Found(), np.zeros((len(pairs), 2), np.int32)
    for position, (_, file) in enumerate(pairs):
        sizes[position] = _read(found, position, root, file)
    classes = _classes(root, found)
    boxes, notes = _from_zero(np.array(found.boxes, np.float64).reshape(-1, 4))
    labels = {name: label for label, name in enumerate(classes)}
    owners = np.array(found.owners, np.int64)
    table = make_table(
        owners,
        len(pairs),
        boxes=boxes,
        labels=np.array([labels[name] for name in found.names], np.int64),
        ids=np.array(found.numbers, np.int64),
        crowd=np.array(found.difficult, bool),
        faults=box_faults(boxes, sizes[owners]),
    )
    alone = sorted({*there} - {*stems})
    if alone:
        notes += (f"{len(alone):,} pictures have no file in {ANNOTATIONS}/ and are left out, such as {alone[0]}",)
    whole = Annotated(
        pictures=Strings.of([there[stem] for stem, _ in pairs]),
        table=table,
        sizes=sizes,
        image_ids=np.arange(1, len(pairs) + 1),
        classes=classes,
        category_ids=tuple(range(len(classes))),
        files=Strings.of([file for _, file in pairs]),
        kind="object",
        refused=(*missing, *found.refused),
        notes=notes,
    )
    return _parts(root, whole.refusing(crowded(whole)), {stem: position for position, (stem, _) in enumerate(pairs)})


def _parts(root: Path, whole: Annotated, positions: Mapping[str, int]) -> dict[str, Annotated]:
    folder = root / "ImageSets" / "Main"
    lists: dict[str, Path] = {}
    for split, names in _LISTS.items():
        there = [folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()]
        lists |= {split: there[0]} if there else {}
    if "train" not in lists:
        return {"all": whole}
    parts = {}
    for split, file in lists.items():
        listed = [line.split()[0] for line in read_lines(file) if line]
        missing = [
            f"{file.relative_to(root)}: {name} has no picture with a file in {ANNOTATIONS}/; add both, or take the "
            "line out"
            for name in listed
            if name not in positions
        ]
        chosen = sorted({positions[name] for name in listed if name in positions})
        parts[split] = whole.select(np.array(chosen, np.int64)).refusing(missing)
    return parts if "val" in parts else {"all": parts["train"]}


def _read(found: _Found, position: int, root: Path, file: str) -> tuple[int, int]:
    """Adds a file's objects; height and width of its picture, 0 where it does not say them."""
    try:
        tree = ElementTree.parse(root / file).getroot()
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise RequestError(f"{root / file}: no XML, or damaged ({error}); write it anew or take it out") from None
    for number, entry in enumerate(tree.iter("object"), 1):
        name = (entry.findtext("name") or "").strip()
        corners = [_number(entry.find("bndbox"), key) for key in ("xmin", "ymin", "xmax", "ymax")]
        if not name or any(corner is None for corner in corners):
            what = "has no name" if not name else "has no bndbox of four numbers xmin, ymin, xmax, ymax"
            found.refused.append(f"{file}: object {number} {what}; complete it or take it out")
            continue
        found.owners.append(position)
        found.numbers.append(number)
        found.names.append(name)
        found.boxes.append([corner for corner in corners if corner is not None])
        found.difficult.append(_number(entry, "difficult") == 1)
    size = tree.find("size")
    height, width = (_number(size, key) or 0 for key in ("height", "width"))
    return int(height), int(width)


def _number(entry: Any, key: str) -> float | None:
    try:
        value = float(entry.findtext(key))
    except (AttributeError, TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _from_zero(boxes: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Boxes whose first pixel is 0 and whose last one is left out, and lines on it."""
    if not len(boxes):
        return boxes, ()
    if boxes[:, :2].min() < 1:
        return boxes, ("boxes begin at 0, so that pixels are counted from 0, not from 1 as VOC counts them",)
    return boxes - np.array([1, 1, 0, 0]), ()


def _classes(root: Path, found: _Found) -> tuple[str, ...]:
    """The names of a list beside the folders, else every name that is found, sorted; VOC itself has its own order."""
    file = next((root / name for name in LISTS if (root / name).is_file()), None)
    if file is None:
        names = tuple(sorted({*found.names}))
        if not names:
            raise RequestError(f"{root}: the files in {ANNOTATIONS}/ hold no objects")
        return names
    names = tuple(read_names(file))
    strange = next((name for name in found.names if name not in names), None)
    if strange is not None:
        raise RequestError(f"{file}: has no class '{strange}', which an object in {ANNOTATIONS}/ is of; add it there")
    return names
