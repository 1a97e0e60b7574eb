"""ImageNet's validation pictures as they are published: one flat folder and a text file of labels."""

import csv
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from crosscale.data.names import is_picture
from crosscale.data.scan import entries, is_dir
from crosscale.data.text_lists import check_distinct, read_lines
from crosscale.errors import RequestError, did_you_mean

log = logging.getLogger("crosscale.data")

_NAMES = (
    "{val}.txt",
    "{val}_map.txt",
    "{val}_labels.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
)
_CLASS_LISTS = ("classes.txt", "LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt", "labels.txt")


def find_labels(root: Path, val_name: str) -> Path | None:
    """The file with the labels of the flat folder root / val_name, if there is one under a usual name."""
    for folder in (root, root / val_name):
        for pattern in _NAMES:
            file = folder / pattern.format(val=val_name)
            if file.is_file():
                return file
    return None


def open_flat(
    root: Path, val_name: str, labels: Path, classes: Sequence[str], train_name: str = "train"
) -> tuple[list[str], np.ndarray]:
    """Paths (relative to `root`, sorted) and labels of the pictures of a flat folder.

    The text file has a line per picture: "<file name> <label>" (or with a comma between them), or the label alone in
    the order of the sorted file names, or a line of Kaggle's LOC_val_solution.csv. A label is a class name, also as
    its folder "<class>/", or a number counted from 0 in the classes' order.

    Raises:
      RequestError: a picture without a label or with two, an unknown class, a number outside the range or one that is
        the name of one class and the position of another; with the line.
    """
    folder = root / val_name
    names = sorted(entry.name for entry in entries(folder) if is_picture(entry.name) and not is_dir(entry))
    lines = [(number, text) for number, text in enumerate(read_lines(labels), 1) if text]
    boxes = bool(lines) and lines[0][1].lower().startswith("imageid,")  # Kaggle's, with numbers after the label
    lines = lines[boxes:]
    if not names or not lines:
        raise RequestError(f"{labels if names else folder}: holds no {'labels' if names else 'images'}")
    found, others = _by_file_name(labels, lines, {_stem(name) for name in names}, boxes=boxes)
    position = {name: label for label, name in enumerate(classes)}
    alone = all(text in position or len(re.split(r"[\s,]+", text)) == 1 for _, text in lines)
    if found or not alone:
        missing = next((name for name in names if _stem(name) not in found), None)
        if missing is not None:
            raise RequestError(f"{labels}: has no line for {folder / missing}")
        if others:
            count = f"{len(others)} of {len(lines)} lines"
            log.warning("%s: %s name no picture of %s, the first '%s'", labels, count, folder, others[0])
        texts = [found[_stem(name)] for name in names]
    elif len(lines) != len(names):
        raise RequestError(f"{labels}: has {len(lines)} labels, but {folder} has {len(names)} images")
    else:
        _refuse_kit_numbers(labels, lines)
        texts = lines
    named = {int(name): name for name in classes if name.isdecimal()}
    numbers = [_label(labels, line, text, position, named, train_name) for line, text in texts]
    return [f"{val_name}/{name}" for name in names], np.asarray(numbers, np.int32)


def read_class_list(folder: Path) -> tuple[str, ...] | None:
    """Class names from a text file in `folder` under a usual name: the first word of each line is the name.

    A line of classes.txt or labels.txt is one name as a whole.

    Raises:
      RequestError: a name appears twice.
    """
    for name in _CLASS_LISTS:
        file = folder / name
        if not file.is_file():
            continue
        whole = name in ("classes.txt", "labels.txt")
        names = tuple(text if whole else text.split()[0] for text in read_lines(file) if text)
        check_distinct(names, str(file))
        return names
    return None


def _by_file_name(
    labels: Path, lines: Sequence[tuple[int, str]], stems: set[str], *, boxes: bool
) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Stem of a picture -> (line, label), of the lines that name one of the pictures, and the other lines.

    Names may hold spaces. Raises RequestError for a picture with two labels.
    """
    found: dict[str, tuple[int, str]] = {}
    others: list[str] = []
    for number, text in lines:
        for name, label in _parted(text):
            stem = _stem(name) if is_picture(name) else re.split(r"[/\\]", name)[-1]  # the suffix may be left out
            if label and stem in stems:
                said = label.split()[0] if boxes else label
                line, before = found.setdefault(stem, (number, said))
                if before != said:
                    raise RequestError(f"{labels}:{number}: '{stem}' is '{said}' here and '{before}' in line {line}")
                break
        else:
            others.append(text)
    return found, others


def _parted(text: str) -> Iterator[tuple[str, str]]:
    """The ways to read a line as a file name and a label, the longest name first."""
    if "," in text or '"' in text:
        separator = "," if "," in text else " "
        name, *rest = [cell.strip() for cell in next(csv.reader([text], delimiter=separator, skipinitialspace=True))]
        yield name, next((cell for cell in rest if cell), "")
    for space in reversed(list(re.finditer(r"\s+", text))):
        yield text[: space.start()], text[space.end() :]


def _stem(name: str) -> str:
    """The file's name without folders (also Windows's) and suffix."""
    return os.path.splitext(re.split(r"[/\\]", name)[-1])[0]


def _refuse_kit_numbers(labels: Path, lines: Sequence[tuple[int, str]]) -> None:
    numbers = [text for _, text in lines]
    if all(text.isdigit() for text in numbers) and "0" not in numbers:
        raise RequestError(
            f"{labels}: numbers from 1 on are the development kit's own, which do not follow the order of the "
            "class folders; give val.txt with '<file name> <class folder>' lines, or the list of class folders "
            "(imagenet_2012_validation_synset_labels.txt)"
        )


def _label(labels: Path, line: int, text: str, position: dict[str, int], named: dict[int, str], train_name: str) -> int:
    if text.endswith("/") and text[:-1] in position:
        return position[text[:-1]]
    name = text if text in position else named.get(int(text), "") if text.isdecimal() else ""  # "1" may be "01"
    if name and text.isdecimal() and int(text) < len(position) and position[name] != int(text):
        raise RequestError(
            f"{labels}:{line}: the label {text} is the class folder '{name}' or, counted from 0, the folder "
            f"'{list(position)[int(text)]}'; write '{name}/' for the folder, or give the folders names that are no "
            "numbers"
        )
    if text in position:
        return position[text]
    if text.lstrip("-").isdigit():
        if 0 <= int(text) < len(position):
            return int(text)
        raise RequestError(f"{labels}:{line}: the label {text} lies outside 0..{len(position) - 1}")
    hint = did_you_mean(text, position)
    raise RequestError(f"{labels}:{line}: '{text}' is not one of the {len(position)} classes of {train_name}/{hint}")
