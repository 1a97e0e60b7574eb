"""Finds image files below class folders, quickly, and again from the cache when nothing has changed."""

import collections
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosscale.data.index_cache import (
    CACHED_FROM,
    RACY_NS,
    Counter,
    load_index,
    pack_counts,
    save_index,
    unpack_counts,
)
from crosscale.data.names import advice_on, count_extensions, is_array, is_left_behind, is_picture, readable
from crosscale.data.once import shared
from crosscale.data.strings import Strings
from crosscale.errors import RequestError


@dataclass(frozen=True)
class Scan:
    """The image files below some folders.

    Attributes:
      paths: relative to the root, POSIX, sorted within each folder.
      owner: (N,) int32, the position of the folder that each one is below.
      others: per folder, up to two names of files that are no images.
      passed_over: how many files are no images, by extension.
    """

    paths: Strings
    owner: np.ndarray
    others: Sequence[Sequence[str]]
    passed_over: Mapping[str, int]


@shared
def scan(root: Path, folders: Sequence[str]) -> Scan:
    """The image files below each of `folders`, given relative to `root`.

    Hidden files and folders, and those that other programs leave behind, are left out; a symbolic link back into its
    own folder, or to one above it, ends there. Arrays (.npy) are pictures where nothing else is one. The result is kept
    for next time where it is large, and the kept one is used while no folder below has changed.

    Raises:
      RequestError: a folder that cannot be listed.
    """
    place = ("folder", str(root.resolve()), readable(), *folders)  # one root may be read for several sets of folders
    stored = load_index(*place)
    if stored is not None and _unchanged(root, stored):
        kept = Strings(stored["data"], stored["ends"])
        return Scan(kept, stored["owner"], [() for _ in folders], unpack_counts(stored))
    began = time.time_ns()
    paths: list[str] = []
    owner: list[int] = []
    others: list[Sequence[str]] = []
    visited: dict[str, int] = {}
    passed_over: collections.Counter[str] = collections.Counter()
    with Counter(f"reading {root}", "files") as counter:
        walked = [_image_files(root, folder, visited, counter) for folder in folders]
        takes_arrays = not any(found for found, _ in walked)  # beside pictures they are something else
        for position, (found, further) in enumerate(walked):
            if takes_arrays:
                found = [path for path in further if is_array(path)]
            rest = sorted(os.path.basename(path) for path in further if not (takes_arrays and is_array(path)))
            paths += found
            owner += [position] * len(found)
            others.append(rest[:2])
            passed_over += count_extensions(rest)
    result = Scan(Strings.of(paths), np.asarray(owner, np.int32), others, passed_over)
    settled = all(stamp < began - RACY_NS for stamp in visited.values())
    if len(paths) >= CACHED_FROM and settled and all(np.bincount(result.owner, minlength=len(folders))):
        names = Strings.of(visited)
        arrays = {"data": result.paths.data, "ends": result.paths.ends, "owner": result.owner}
        arrays |= pack_counts(passed_over)
        stamps = np.fromiter(visited.values(), np.int64, len(visited))
        save_index({**arrays, "folders": names.data, "folder_ends": names.ends, "stamps": stamps}, *place)
    return result


def _unchanged(root: Path, stored: dict[str, np.ndarray]) -> bool:
    # Adding, removing or renaming an entry changes its folder's time; an edited file keeps its place.
    try:
        names = Strings(stored["folders"], stored["folder_ends"])
        return all(
            os.stat(root / name).st_mtime_ns == stamp
            for name, stamp in zip(names, stored["stamps"].tolist(), strict=True)
        )
    except (KeyError, OSError, ValueError):
        return False


def _image_files(root: Path, folder: str, visited: dict[str, int], counter: Counter) -> tuple[list[str], list[str]]:
    """Sorted paths below root / folder (nested ones too) of images, and of other files."""
    found: list[str] = []
    others: list[str] = []
    # A symbolic link back into this class ends; so does one to a folder above it, where the other classes are.
    above = [root / parent for parent in Path(folder).parents] + [*root.resolve().parents] if folder else []
    seen = {(status.st_dev, status.st_ino) for status in (os.stat(place) for place in above if place.exists())}
    pending = [folder]
    while pending:
        relative = pending.pop()
        listed = entries(root / relative)
        status = os.stat(root / relative)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        visited[relative] = status.st_mtime_ns
        for entry in listed:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if is_picture(entry.name) and not is_dir(entry):
                found.append(path)
            elif is_dir(entry):
                pending.append(path)
            else:
                others.append(path)
        counter.add(len(listed))
    return sorted(found), sorted(others)


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the visible folders in `folder`. Raises RequestError."""
    return sorted(entry.name for entry in entries(folder) if is_dir(entry))


def is_dir(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder or a link to one; a symbolic link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def entries(folder: Path) -> list["os.DirEntry[str]"]:
    """The entries of a folder except what is hidden or left behind by other programs. Raises RequestError."""
    try:
        with os.scandir(folder) as listed:
            return [entry for entry in listed if not is_left_behind(entry.name)]
    except FileNotFoundError:
        raise RequestError(
            f"{folder}: no such folder; give one with train/<class>/*.jpg and val/<class>/*.jpg, "
            "one with <class>/*.jpg (a part is held out), one of .tar or .parquet shards, an .npz file, "
            "or the word digits"
        ) from None
    except PermissionError:
        raise RequestError(f"{folder}: no permission to list this folder") from None
    except NotADirectoryError:
        advice = advice_on(folder.name)
        raise RequestError(f"{folder}: a file, not a folder of class folders{advice and f'; {advice}'}") from None
    except OSError as error:
        raise RequestError(f"{folder}: cannot be listed ({error.strerror})") from None
