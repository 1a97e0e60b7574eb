"""Which JSON files of a folder are COCO's, of which part of the data, and where their pictures lie."""

import mmap
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crosscale.data.annotated import Annotated
from crosscale.data.coco_json import PARTS, read_coco
from crosscale.data.names import SPLITS, split_in
from crosscale.data.scan import entries, is_dir
from crosscale.data.strings import Strings
from crosscale.errors import RequestError

ONE_PART = ("_annotations.coco.json", "annotations.json", "instances.json", "coco.json", "result.json", "labels.json")
OTHERS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")  # COCO's own files without instances

_LOOKED_AT = 20  # pictures that tell which folder they lie in


def find_coco(root: Path) -> dict[str, Path]:
    """The JSON files by part, "train", "val" or "test", or "all" where there is one; {} for none.

    Raises:
      RequestError: two files of one part.
    """
    if root.suffix.lower() == ".json" and root.is_file():
        return {"all": root}
    if not root.is_dir():
        return {}
    for folder in (root / "annotations", root / "Annotations", root):
        if found := _by_split(root, [file for file in _jsons(folder) if not file.name.startswith(OTHERS)]):
            return found
    below = [file for words in SPLITS.values() for word in words for file in _jsons(root / word) if _is_usual(file)]
    if found := _by_split(root, below):
        return found
    alone = [file for folder in (root, root / "annotations") for file in _jsons(folder) if _is_usual(file)]
    return {"all": alone[0]} if alone else {}


def read_part(root: Path, file: Path, masks: bool, *, lenient: bool) -> Annotated:
    """A file's annotations, with its pictures as paths relative to the root.

    Args:
      root: the data set's folder, which the file is in.
      lenient: leaves out missing pictures, which `refused` names.

    Raises:
      RequestError: what `read_coco` refuses, or none of the pictures is there.
    """
    read = read_coco(file, masks)
    if not len(read):
        raise RequestError(f"{file}: images is empty; list the pictures")
    base = _folder_of(root, file, read.pictures)
    there = _existing(root, [os.path.join(base, name) for name in read.pictures])
    missing = [
        f"{file}: image {read.image_ids[i]} is {read.pictures[i]}, which is not in {root / base}; add the picture, or "
        "take the image and its annotations out"
        for i, path in enumerate(there)
        if path is None
    ]
    read = replace(read, pictures=Strings.of([path or name for path, name in zip(there, read.pictures, strict=True)]))
    if missing and lenient:
        read = read.select(np.flatnonzero([path is not None for path in there]))
    return read.refusing(missing)


def _jsons(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [entry.name for entry in entries(folder) if entry.name.lower().endswith(".json") and not is_dir(entry)]
    # Hidden by an underscore at most: entries() leaves out what begins with a dot.
    return [folder / name for name in sorted(files)]


def _by_split(root: Path, files: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        split = split_in(file.stem) or split_in(file.parent.name if file.parent != root else "")
        if not split or not _is_coco(file):
            continue
        if split in found:
            raise RequestError(
                f"{root}: {found[split].name} and {file.name} are both of the part {split}; keep one of them"
            )
        found[split] = file
    return found if set(found) != {"test"} else {}


def _is_usual(file: Path) -> bool:
    return file.name.lower() in ONE_PART and _is_coco(file)


def _is_coco(file: Path) -> bool:
    """Whether the words are in it, without parsing hundreds of megabytes."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return all(data.find(f'"{part}"'.encode()) >= 0 for part in PARTS[:2])
    except (OSError, ValueError):  # an empty file has no map
        return False


def _folder_of(root: Path, file: Path, names: Sequence[str]) -> str:
    """The folder, relative to the root, below which the named pictures lie."""
    suffix = file.stem.removeprefix("instances_")
    split = split_in(file.stem) or split_in(file.parent.name)
    words = [suffix, *SPLITS.get(split, ())]
    places = [*words, *(f"images/{word}" for word in words), "images", "JPEGImages", ""]
    own = os.path.relpath(file.parent, root)
    places = [own, f"{own}/images", *places] if own not in (".", "annotations") else places
    places = list(dict.fromkeys(places))
    first = [names[int(i * len(names) / _LOOKED_AT)] for i in range(_LOOKED_AT)] if len(names) > _LOOKED_AT else names
    found = Counter({place: sum(os.path.isfile(root / place / name) for name in first) for place in places})
    place, hits = found.most_common(1)[0]
    if not hits:
        told = ", ".join(f"{place}/" if place else "the folder itself" for place in places)
        raise RequestError(
            f"{file}: none of its pictures is found, {names[0]!r} among them (looked in {told} of {root}); put the "
            "pictures there, or correct file_name"
        )
    return place


def _existing(root: Path, paths: Sequence[str]) -> list[str | None]:
    """Each path as its folder spells it; None where it is not there. A folder is listed once."""
    listed: dict[str, dict[str, str]] = {}
    found: list[str | None] = []
    for path in paths:
        folder, name = os.path.split(os.path.normpath(path))
        if folder not in listed:
            listed[folder] = _names_in(root / folder)
        spelt = listed[folder].get(unicodedata.normalize("NFC", name))
        found.append(None if spelt is None else os.path.join(folder, spelt))
    return found


def _names_in(folder: Path) -> dict[str, str]:
    try:
        return {unicodedata.normalize("NFC", name): name for name in os.listdir(folder)}
    except OSError:
        return {}
