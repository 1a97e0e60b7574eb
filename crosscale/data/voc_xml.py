"""Pascal VOC's XML files: in Annotations/, with JPEGImages/ and lists of the parts in ImageSets/Main/, or each beside
its picture, in one folder or in folders of the parts.

VOC counts pixels from 1 and includes the last one: its box 1 1 W H is the whole picture, here 0 0 W H. Programs that
write the same files often count from 0; a 0 anywhere shows it.
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
from crosscale.data.names import is_picture, split_of
from crosscale.data.object_table import box_faults, make_table
from crosscale.data.once import shared
from crosscale.data.scan import entries, is_dir, scan, subfolders
from crosscale.data.strings import Strings
from crosscale.data.text_lists import read_lines, read_names
from crosscale.errors import RequestError

ANNOTATIONS, PICTURES = "Annotations", "JPEGImages"
_BEGINNING = 1024  # bytes of a file that tell whether it is VOC's
_LISTS = {"train": ("train", "trainval"), "val": ("val", "test")}


@dataclass(frozen=True)
class _Place:
    """Folders of pictures and of their files, relative to the root.

    Attributes:
      split: whose they are; "" where there is one place.
    """

    pictures: str
    files: str
    split: str = ""

    @property
    def beside(self) -> bool:
        """Whether the files lie beside their pictures."""
        return self.pictures == self.files


@dataclass
class _Found:
    """The objects of all files, in columns."""

    owners: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@dataclass
class _Pairs:
    """Pictures and their files, position by position, the split of each, and what has no counterpart."""

    pictures: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_voc(root: Path) -> bool:
    """Whether a folder has VOC's annotations of boxes, by the names of what it holds and the first file's beginning."""
    return root.is_dir() and bool(_places(root))


@shared
def read_voc(root: Path) -> dict[str, Annotated]:
    """The parts "train" and "val" (or "test"), or "all" where neither lists nor folders name them.

    Difficult objects count as crowds: not learnt, and neither counted for nor against.

    Raises:
      RequestError: a list or a file that cannot be read, or names a picture that is not there.
    """
    places = _places(root)
    pairs = _Pairs()
    for place in places:
        _pair(root, place, pairs)
    found, sizes = _Found(), np.zeros((len(pairs.files), 2), np.int32)
    for position, file in enumerate(pairs.files):
        sizes[position] = _read(found, position, root, file)
    classes = _classes(root, found, "a .xml file" if places[0].beside else f"{ANNOTATIONS}/")
    boxes, notes = _from_zero(np.array(found.boxes, np.float64).reshape(-1, 4))
    labels = {name: label for label, name in enumerate(classes)}
    owners = np.array(found.owners, np.int64)
    table = make_table(
        owners,
        len(pairs.files),
        boxes=boxes,
        labels=np.array([labels[name] for name in found.names], np.int64),
        ids=np.array(found.numbers, np.int64),
        crowd=np.array(found.difficult, bool),
        faults=box_faults(boxes, sizes[owners]),
    )
    whole = Annotated(
        pictures=Strings.of(pairs.pictures),
        table=table,
        sizes=sizes,
        image_ids=np.arange(1, len(pairs.files) + 1),
        classes=classes,
        category_ids=tuple(range(len(classes))),
        files=Strings.of(pairs.files),
        kind="object",
        refused=(*pairs.missing, *found.refused),
        notes=(*notes, *pairs.notes),
    )
    whole = whole.refusing(crowded(whole))
    splits = np.array(pairs.splits)
    if places[0].split:
        return {place.split: whole.select(np.flatnonzero(splits == place.split)) for place in places}
    return _parts(root, whole, {_stem(file): position for position, file in enumerate(pairs.files)})


def _places(root: Path) -> list[_Place]:
    """Where files and pictures lie; [] where they are not VOC's."""
    folders = subfolders(root)
    if {ANNOTATIONS, PICTURES} <= {*folders} and _xmls(root / ANNOTATIONS):
        return [_Place(PICTURES, ANNOTATIONS)]
    if _lie_together(root):
        return [_Place("", "")]
    splits = {split_of(name): name for name in folders if split_of(name) and _lie_together(root / name)}
    return [_Place(name, name, split) for split, name in splits.items()]


def _lie_together(folder: Path) -> bool:
    """Whether files of VOC's form lie beside pictures of their names."""
    files = _xmls(folder)
    pictures = {_stem(name) for name in _pictures(folder)} if files else set()
    first = next((name for name in files if _stem(name) in pictures), None)
    if first is None:
        return False
    with (folder / first).open("rb") as stream:
        return b"<annotation" in stream.read(_BEGINNING)


def _pair(root: Path, place: _Place, pairs: _Pairs) -> None:
    """Adds a place's pictures and their files."""
    if place.beside:
        paths = [os.path.join(place.pictures, name) for name in _pictures(root / place.pictures)]
    else:
        paths = list(scan(root, [place.pictures]).paths)
    there: dict[str, str] = {}
    for path in paths:
        if (other := there.setdefault(_stem(path), path)) != path:
            pairs.missing.append(f"{path}: has the name of {other}, and one file would be of both; keep one of them")
    where = "beside it" if place.beside else f"in {place.pictures}/"
    names = _xmls(root / place.files)
    for name in names:
        stem, file = _stem(name), os.path.join(place.files, name)
        if stem not in there:
            pairs.missing.append(f"{file}: there is no picture {stem} {where}; add it, or take the file out")
            continue
        pairs.pictures.append(there[stem])
        pairs.files.append(file)
        pairs.splits.append(place.split)
    if alone := sorted({*there} - {_stem(name) for name in names}):
        lacks = "no .xml file beside them" if place.beside else f"no file in {place.files}/"
        pairs.notes.append(f"{len(alone):,} pictures have {lacks} and are left out, such as {alone[0]}")


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _xmls(folder: Path) -> list[str]:
    return sorted(entry.name for entry in entries(folder) if entry.name.lower().endswith(".xml"))


def _pictures(folder: Path) -> list[str]:
    return sorted(entry.name for entry in entries(folder) if is_picture(entry.name) and not is_dir(entry))


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
    except (LookupError, ValueError) as error:  # of the encoding that its first line declares, such as "ANSI"
        raise RequestError(
            f"{root / file}: its encoding is not read ({error}); save it as UTF-8, and let its first line say so"
        ) from None
    except (OSError, ElementTree.ParseError) as error:
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


def _classes(root: Path, found: _Found, where: str) -> tuple[str, ...]:
    """The names of a list beside the folders, else every name that is found, sorted; VOC itself has its own order."""
    file = next((root / name for name in LISTS if (root / name).is_file()), None)
    if file is None:
        names = tuple(sorted({*found.names}))
        if not names:
            raise RequestError(f"{root}: no object is found in {where}")
        return names
    names = tuple(read_names(file))
    strange = next((name for name in found.names if name not in names), None)
    if strange is not None:
        raise RequestError(f"{file}: has no class '{strange}', which an object in {where} has; add it there")
    return names
