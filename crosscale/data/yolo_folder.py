"""YOLO's folders: a text file for each picture, with a line for each object, and a YAML file with the classes.

A line is a class and a box (its centre, width and height) or a class and the corners of an outline, all as shares of
the picture's sides.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.data.annotated import Annotated, crowded
from crosscale.data.coco_json import area_of
from crosscale.data.names import SPLITS, is_picture
from crosscale.data.object_table import box_faults, make_table
from crosscale.data.objects import Segmentation
from crosscale.data.scan import entries, is_dir, scan, subfolders
from crosscale.data.strings import Strings
from crosscale.data.text_lists import check_distinct, read_lines
from crosscale.data.yolo_yaml import class_names, description, key_point_numbers
from crosscale.errors import RequestError

PICTURES, LABELS = "images", "labels"

_SLACK = 0.01  # of the sides, by which rounding may carry a coordinate beyond 0..1
_BEYOND = 1e-3  # of the sides: a box that reaches further beyond is reported
_CLASS_FILES = ("classes.txt", "obj.names", "labels.txt")


@dataclass(frozen=True)
class YoloFolder:
    """Where the pictures of each part lie.

    Attributes:
      parts: part -> pictures, relative to the root.
      classes: names in label order; None where no file says them.
      said_by: the file that says them.
      key_points: how many numbers of key points follow the box in each line.
    """

    parts: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...] | None
    said_by: str
    key_points: int = 0


def is_yolo(root: Path) -> bool:
    """Whether a folder is one of pictures and text files of boxes, by the names of what it holds."""
    if not root.is_dir():
        return False
    folders = subfolders(root)
    bases = [root / name for name in folders if any(name.casefold() in words for words in SPLITS.values())]
    for base in (root, *bases):
        inside = {name.casefold(): name for name in subfolders(base)}
        if PICTURES in inside and LABELS in inside and _has_texts(base / inside[LABELS]):
            return True
    described = description(root)
    return described is not None and "train" in described[1]


def find_yolo(root: Path) -> YoloFolder:
    """The parts and the classes.

    Raises:
      RequestError: the YAML file is damaged, or does not say where the pictures are.
    """
    described = description(root)
    parts = _by_folders(root) or _by_description(root, *(described or (root, {})))
    if not parts:
        raise RequestError(f"{root}: no pictures are found in images/ beside labels/, or where data.yaml says")
    if described is not None:
        return YoloFolder(parts, class_names(*described), described[0].name, key_point_numbers(*described))
    for name in _CLASS_FILES:
        if (root / name).is_file():
            names = tuple(line for line in read_lines(root / name) if line)
            check_distinct(names, str(root / name))
            return YoloFolder(parts, names, name)
    return YoloFolder(parts, None, "")


def read_yolo(root: Path, folder: YoloFolder, part: str, masks: bool) -> Annotated:
    """The objects of one part.

    Without a file of classes they are called by their numbers, those of every part.
    """
    pictures = folder.parts[part]
    files = _label_files(root, pictures)
    there = [os.path.isfile(root / file) for file in files]
    if not any(there):
        raise RequestError(
            f"{root}: none of the {len(pictures):,} pictures of {part} has a text file of its name, such as {files[0]}"
        )
    names = folder.classes or _numbers(root, folder)
    found = _Lines(len(names), folder.said_by, folder.key_points)
    for position, (file, is_there) in enumerate(zip(files, there, strict=True)):
        if is_there:
            found.read(position, file, read_lines(root / file))
    boxes = np.array(found.boxes, np.float64).reshape(-1, 4)
    faults = box_faults(boxes, np.ones((len(boxes), 2)), least=0, slack=_BEYOND)
    table = make_table(
        np.array(found.owners, np.int64),
        len(pictures),
        boxes=boxes,
        labels=np.array(found.labels, np.int64),
        ids=np.array(found.numbers, np.int64),
        areas=np.array([area_of(outline) for outline in found.outlines], np.float64),
        faults=faults,
        masks=found.outlines if masks and any(found.outlines) else None,
        shares=True,
    )
    read = Annotated(
        pictures=Strings.of(pictures),
        table=table,
        sizes=np.zeros((len(pictures), 2), np.int32),
        image_ids=np.arange(1, len(pictures) + 1),
        classes=tuple(names),
        category_ids=tuple(range(len(names))),
        files=Strings.of(files),
        kind="line",
        refused=tuple(found.refused),
        notes=_notes(root, folder, files, found.doubled),
    )
    return read.refusing(crowded(read))


class _Lines:
    """The objects of text files, in columns."""

    def __init__(self, classes: int, said_by: str, key_points: int) -> None:
        self.classes, self.said_by, self.key_points = classes, said_by, key_points
        self.owners: list[int] = []
        self.numbers: list[int] = []
        self.labels: list[int] = []
        self.boxes: list[tuple[float, float, float, float]] = []
        self.outlines: list[Segmentation | None] = []
        self.refused: list[str] = []
        self.doubled = 0

    def read(self, owner: int, file: str, lines: Sequence[str]) -> None:
        """Takes the lines of one picture's file; of equal lines the first."""
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            if line in seen:
                self.doubled += 1
                continue
            seen.add(line)
            try:
                values = [float(word) for word in line.split()]
            except ValueError:
                values = []
            if self.key_points and len(values) == 5 + self.key_points:
                values = values[:5]
            fault = self._fault(values)
            if fault:
                self.refused.append(f"{file}:{number}: {fault}")
                continue
            self._add(owner, number, values)

    def _fault(self, values: Sequence[float]) -> str:
        if not values or not all(map(math.isfinite, values)):
            return "not a line of numbers; it is a class, then centre x, centre y, width, height"
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            return (
                f"{len(values)} numbers; a line is a class and 4 for a box (no confidence), or a class and x, y of "
                "three corners or more"
            )
        if not values[0].is_integer() or not 0 <= values[0] < self.classes:
            known = f"{self.said_by} has {self.classes} classes, 0..{self.classes - 1}"
            return f"class {values[0]:g}, but {known}; add its name there or correct the line"
        least, most = min(values[1:]), max(values[1:])
        if most > 1 + _SLACK or least < -_SLACK:
            return (
                f"{most if most > 1 + _SLACK else least:g} is not in 0..1: YOLO's boxes are shares of the picture's "
                "sides; divide x and width by its width, y and height by its height"
            )
        return ""

    def _add(self, owner: int, number: int, values: Sequence[float]) -> None:
        self.owners.append(owner)
        self.numbers.append(number)
        self.labels.append(int(values[0]))
        if len(values) == 5:
            x, y, width, height = values[1:]
            self.boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
            self.outlines.append(None)
            return
        xs, ys = values[1::2], values[2::2]
        self.boxes.append((min(xs), min(ys), max(xs), max(ys)))
        self.outlines.append([list(values[1:])])


def _notes(root: Path, folder: YoloFolder, files: Sequence[str], doubled: int) -> tuple[str, ...]:
    notes = [] if folder.classes else ["no data.yaml or classes.txt: the classes are called by their numbers"]
    if folder.key_points:
        notes.append(f"{folder.said_by} tells of key points (kpt_shape): only the boxes are learnt")
    if doubled:
        notes.append(f"{doubled:,} lines that appear twice in their file count once")
    wanted = {*files}
    folders = sorted({os.path.dirname(file) for file in files})
    lonely = [
        f"{name}/{entry.name}"
        for name in folders
        if (root / name).is_dir()
        for entry in entries(root / name)
        if entry.name.endswith(".txt") and f"{name}/{entry.name}" not in wanted and entry.name not in _CLASS_FILES
    ]
    if lonely:
        notes.append(f"{len(lonely):,} text files have no picture of their name, such as {sorted(lonely)[0]}")
    return tuple(notes)


def _numbers(root: Path, folder: YoloFolder) -> tuple[str, ...]:
    """Names for the numbers 0..most of all parts' lines."""
    most = -1
    for name in (name for pictures in folder.parts.values() for name in _label_files(root, pictures)):
        file = root / name
        for line in read_lines(file) if file.is_file() else ():
            word = line.split()[0] if line else ""
            most = max(most, int(word)) if word.isdigit() and int(word) < 10_000 else most
    return tuple(str(number) for number in range(most + 1))


def _label_files(root: Path, pictures: Sequence[str]) -> list[str]:
    """images/train/a.jpg -> labels/train/a.txt: the last folder of that name, as YOLO has it."""
    called: dict[str, str] = {}  # folder -> what its folder of labels is called
    files = []
    for picture in pictures:
        parts = os.path.splitext(picture)[0].split("/")
        places = [i for i, part in enumerate(parts[:-1]) if part.casefold() == PICTURES]
        if places:
            above = "/".join(parts[: places[-1]])
            if above not in called:
                called[above] = _spelt(root / above, LABELS) or LABELS
            parts[places[-1]] = called[above]
        files.append("/".join(parts) + ".txt")
    return files


def _spelt(folder: Path, name: str) -> str | None:
    """How a folder within this one is spelt, Images or images; None where there is none."""
    return next((inside for inside in subfolders(folder) if inside.casefold() == name), None)


def _by_folders(root: Path) -> dict[str, tuple[str, ...]]:
    """images/train or train/images, by any of the splits' names; images/ alone is one part."""
    parts: dict[str, tuple[str, ...]] = {}
    inside = _spelt(root, PICTURES)
    if inside is not None and _spelt(root, LABELS) is not None:
        folders = {name.casefold(): name for name in subfolders(root / inside)}
        for split, words in SPLITS.items():
            found = next((folders[name] for name in folders if _is_split(name, words)), None)
            if found is not None:
                parts[split] = tuple(scan(root, [f"{inside}/{found}"]).paths)
        return parts or {"all": tuple(scan(root, [inside]).paths)}
    folders = {name.casefold(): name for name in subfolders(root)}
    for split, words in SPLITS.items():
        found = next((folders[name] for name in words if name in folders), None)
        if found is not None and (inside := _spelt(root / found, PICTURES)) is not None:
            parts[split] = tuple(scan(root, [f"{found}/{inside}"]).paths)
    return {split: pictures for split, pictures in parts.items() if pictures}


def _is_split(name: str, words: Sequence[str]) -> bool:
    """images/train, and images/train2017."""
    return name.rstrip("0123456789") in words


def _by_description(root: Path, file: Path, described: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The parts as data.yaml names them: folders of pictures, or text files that list them."""
    parts = {}
    for split in SPLITS:
        said = described.get(split)
        found: list[str] = []
        for place in [said] if isinstance(said, str) else said if isinstance(said, list) else []:
            found += _pictures_of(root, str(described.get("path") or ""), str(place), f"{file}: {split}")
        if found:
            parts[split] = tuple(found)
    return parts


def _pictures_of(root: Path, base: str, place: str, where: str) -> list[str]:
    """Relative to the root. Roboflow's "../train/images" is meant from the YAML file's own folder."""
    tried = dict.fromkeys(os.path.normpath(os.path.join(a, b)) for a in (base, "") for b in (place, place.lstrip("./")))
    for path in tried:
        if os.path.isdir(root / path):
            return list(scan(root, [path]).paths)
        if os.path.isfile(root / path) and path.endswith(".txt"):
            lines = [line for line in read_lines(root / path) if line]
            folder = os.path.dirname(path)
            listed = [os.path.normpath(os.path.join(folder, line)) if line.startswith(".") else line for line in lines]
            missing = next((name for name in listed if not is_picture(name) or not os.path.isfile(root / name)), None)
            if missing is not None:
                raise RequestError(f"{root / path}: lists {missing}, which is no picture in {root}")
            return listed
    raise RequestError(f"{where} is {place!r}, which is not in {root}; give the folder of pictures relative to it")


def _has_texts(folder: Path) -> bool:
    for place in (folder, *(folder / name for name in subfolders(folder))):
        if any(entry.name.endswith(".txt") and not is_dir(entry) for entry in entries(place)):
            return True
    return False
