"""Which shard files of a folder belong to which split, and what sources of shards share."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crosscale.data.arrays import check_labels, numbered_classes
from crosscale.data.names import split_in
from crosscale.data.scan import entries, is_dir, subfolders
from crosscale.errors import RequestError


def find_shards(root: Path, suffix: str) -> dict[str, list[Path]]:
    """Sorted shard files by split: "train", "val", "test", or "" where neither name nor folder tells.

    Looks in `root`, in root/data and in the folders named after splits there.
    """
    found: dict[str, list[Path]] = {}
    for base in (root, root / "data"):
        if not base.is_dir():
            continue
        for folder in (base, *(base / name for name in subfolders(base) if split_in(name))):
            for entry in entries(folder):
                if entry.name.lower().endswith(suffix) and not is_dir(entry):
                    split = split_in(folder.name) if folder != base else split_in(entry.name)
                    found.setdefault(split, []).append(folder / entry.name)
    return {split: sorted(files) for split, files in found.items()}


def choose_shards(root: Path, found: dict[str, list[Path]], split: str) -> tuple[list[Path], bool]:
    """The files of a split, and whether they are one part from which `split` is yet to be cut.

    Raises:
      RequestError: the split cannot be told.
    """
    val = "val" if "val" in found else "test"
    parted = "train" in found and val in found
    if split == "all":
        if len(found) > 1:
            raise RequestError(
                f"{root}: has shards of {', '.join(name or 'no split' for name in sorted(found))}, "
                "so no one part is all of it; give a folder that holds one part"
            )
        return next(iter(found.values())), True
    if parted:
        return found["train" if split == "train" else val], False
    if set(found) == {""} or set(found) == {"train"}:
        return next(iter(found.values())), True
    raise RequestError(
        f"{root}: has shards of {', '.join(name or 'no split' for name in sorted(found))} but none to train on; "
        "name them <name>-train-*.tar and <name>-val-*.tar, or measure one part with --split all"
    )


def label_numbers(
    values: Sequence[str] | np.ndarray, classes: Sequence[str] | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names from what shards hold: numbers from 0, or names, also as folders "<class>/".

    Raises:
      RequestError: an unknown name, a number outside the range, or numbers that are names of some classes and positions
        of others.
    """
    if not isinstance(values, np.ndarray) and classes is not None and set(values) <= set(classes):
        _refuse_two_meanings(values, classes, where)
        numeric = False
    else:
        numeric = isinstance(values, np.ndarray) or all(re.fullmatch(r"-?\d+", value) for value in values)
    if numeric:
        labels = np.asarray(values).astype(np.int64)
        names = tuple(classes or numbered_classes(where, labels, "write classes.txt with a name for each from 0 on"))
        check_labels(where, labels, len(names))
        return labels.astype(np.int32), names
    values = [value.removesuffix("/") for value in values]
    names = tuple(classes or sorted(set(values)))
    position = {name: label for label, name in enumerate(names)}
    unknown = next((value for value in values if value not in position), None)
    if unknown is not None:
        raise RequestError(f"{where}: the class '{unknown}' is not one of the {len(names)} to train on")
    return np.array([position[value] for value in values], np.int32), names


def _refuse_two_meanings(values: Sequence[str], classes: Sequence[str], where: str) -> None:
    """Refuses labels, all of them names of classes, that are positions of other classes as well."""
    positions = {value: int(value) for value in set(values) if value.isdecimal() and int(value) < len(classes)}
    other = next((value for value, place in sorted(positions.items()) if classes[place] != value), None)
    if other is not None and positions.keys() == set(values):
        raise RequestError(
            f"{where}: the label {other} is the class '{other}' or, counted from 0, the class "
            f"'{classes[positions[other]]}'; write '{other}/' for the name, or give the classes names that are no "
            "numbers"
        )
