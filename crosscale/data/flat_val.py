"""ImageNet's validation pictures as they are published: one flat folder and a text file of labels."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crosscale.data.scan import EXTENSIONS, entries, is_dir
from crosscale.errors import RequestError, did_you_mean

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


def open_flat(root: Path, val_name: str, labels: Path, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Paths (relative to `root`, sorted) and labels of the pictures of a flat folder.

    The text file has a line per picture: "<file name> <label>", or the label alone in the order of the sorted
    file names, or a line of Kaggle's LOC_val_solution.csv. A label is a class name or a number counted from 0
    in the classes' order.

    Raises:
      RequestError: a picture without a label, an unknown class or a number outside the range; with the line.
    """
    folder = root / val_name
    names = sorted(
        entry.name
        for entry in entries(folder)
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not is_dir(entry)
    )
    lines = [(number, text) for number, text in enumerate(read_lines(labels), 1) if text]
    if lines and lines[0][1].lower().startswith("imageid,"):
        lines = lines[1:]
    if not names or not lines:
        raise RequestError(f"{labels if names else folder}: holds no {'labels' if names else 'images'}")
    by_name = len(re.split(r"[\s,]+", lines[0][1])) > 1
    if by_name:
        texts = _by_file_name(labels, lines, names, folder)
    elif len(lines) != len(names):
        raise RequestError(f"{labels}: has {len(lines)} labels, but {folder} has {len(names)} images")
    else:
        _refuse_kit_numbers(labels, lines)
        texts = lines
    position = {name: label for label, name in enumerate(classes)}
    numbers = [_label(labels, line, text, position) for line, text in texts]
    return [f"{val_name}/{name}" for name in names], np.asarray(numbers, np.int32)


def read_class_list(folder: Path) -> tuple[str, ...] | None:
    """Class names from a text file in `folder` under a usual name: the first word of each line is the name.

    A line of classes.txt or labels.txt is one name as a whole.

    Raises:
      RequestError: a name stands twice.
    """
    for name in _CLASS_LISTS:
        file = folder / name
        if not file.is_file():
            continue
        whole = name in ("classes.txt", "labels.txt")
        names = tuple(text if whole else text.split()[0] for text in read_lines(file) if text)
        for index, class_name in enumerate(names):
            if class_name in names[:index]:
                raise RequestError(f"{file}: the class '{class_name}' stands twice")
        return names
    return None


def read_lines(file: Path) -> list[str]:
    """The stripped lines of a text file. Raises RequestError."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: cannot be read as text ({error})") from None


def _by_file_name(
    labels: Path, lines: Sequence[tuple[int, str]], names: Sequence[str], folder: Path
) -> list[tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for number, text in lines:
        file_name, label, *_ = [*re.split(r"[\s,]+", text), ""]
        found[os.path.splitext(os.path.basename(file_name))[0]] = (number, label)
    texts = []
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem not in found:
            raise RequestError(f"{labels}: has no line for {folder / name}")
        texts.append(found[stem])
    return texts


def _refuse_kit_numbers(labels: Path, lines: Sequence[tuple[int, str]]) -> None:
    numbers = [text for _, text in lines]
    if all(text.isdigit() for text in numbers) and "0" not in numbers:
        raise RequestError(
            f"{labels}: numbers from 1 on are the development kit's own, which do not follow the order of the "
            "class folders; give val.txt with '<file name> <class folder>' lines, or the list of class folders "
            "(imagenet_2012_validation_synset_labels.txt)"
        )


def _label(labels: Path, line: int, text: str, position: dict[str, int]) -> int:
    if text in position:
        return position[text]
    if text.lstrip("-").isdigit():
        if 0 <= int(text) < len(position):
            return int(text)
        raise RequestError(f"{labels}:{line}: the label {text} lies outside 0..{len(position) - 1}")
    hint = did_you_mean(text, position)
    raise RequestError(f"{labels}:{line}: '{text}' is none of the {len(position)} classes of train/{hint}")
