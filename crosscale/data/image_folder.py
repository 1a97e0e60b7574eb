"""A folder of class folders as a source, and any source written out as such a folder."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from crosscale.contracts import Record, Source
from crosscale.data.decode import decode, open_image
from crosscale.errors import RequestError

log = logging.getLogger("crosscale.data")

EXTENSIONS = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
VAL_NAMES = ("val", "valid", "validation")


class ImageFolder:
    """The image files below one folder per class.

    Attributes:
      root: what record ids are relative to.
      classes: class names, sorted; the label is the position.
      paths: POSIX paths relative to `root`, sorted within their class.
      labels: (N,) int32.
    """

    def __init__(
        self, root: Path, classes: Sequence[str], paths: Sequence[str], labels: Sequence[int]
    ) -> None:
        self.root = root
        self.classes: Sequence[str] = tuple(classes)
        self.paths = list(paths)
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return Record(path, open_image(self.root / path), int(self.labels[index]))

    def select(self, indices: Iterable[int]) -> "ImageFolder":
        """The same folder with only these examples."""
        chosen = list(indices)
        return ImageFolder(
            self.root, self.classes, [self.paths[i] for i in chosen], [int(self.labels[i]) for i in chosen]
        )


def open_folder(root: Path, split: str, val_fraction: float, seed: int) -> ImageFolder:
    """One split of `root`, which holds train/ and val/, or the class folders themselves."""
    folders = _subfolders(root)
    val_name = next((name for name in VAL_NAMES if name in folders), None)
    if "train" in folders and val_name is not None:
        return _open_split(root, "train", val_name, split)
    if folders == ["train"]:
        raise RequestError(
            f"{root}: has train/ but no val/; add val/<class>/, "
            f"or give {root / 'train'} to hold out a part of it"
        )
    whole = _scan(root, "", folders)
    held_out = stratified_split(whole.paths, whole.labels, val_fraction, seed)
    wanted = held_out if split == "val" else ~held_out
    return whole.select(np.flatnonzero(wanted))


def stratified_split(ids: Sequence[str], labels: np.ndarray, val_fraction: float, seed: int) -> np.ndarray:
    """Which examples are held out: a boolean (N,), `val_fraction` of each class.

    The choice hangs on each example's id and the seed alone (the smallest SHA-256 digests are held out),
    so it is the same on every machine and in every version, whatever the order. A class of two or more
    keeps at least one example on each side.
    """
    keys = [sha256(f"{seed}/{name}".encode()).digest() for name in ids]
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    held_out = np.zeros(len(ids), bool)
    for indices in members.values():
        count = min(max(1, round(len(indices) * val_fraction)), len(indices) - 1)
        held_out[sorted(indices, key=keys.__getitem__)[:count]] = True
    return held_out


def write_image_folder(
    sources: Mapping[str, Source], out: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes each source as `out/<split>/<class>/<name>.png`: 8 bits, grey or RGB, lossless.

    Args:
      sources: split name ("train", "val") -> source.
      progress: called with (pictures written, pictures in all).

    Raises:
      RequestError: `out` already holds one of the splits, or two ids give one file name.
      BadImage: a picture of a source does not decode.
    """
    out = Path(out)
    for split in sources:
        if (out / split).exists():
            raise RequestError(f"{out / split}: already exists; choose another folder or remove it")
    total = sum(len(source) for source in sources.values())
    done = 0
    for split, source in sources.items():
        for name in source.classes:
            (out / split / name).mkdir(parents=True)
        for index in range(len(source)):
            record = source[index]
            path = _free_path(out / split / source.classes[record.label], record.id)
            decode(record.image, _channels(record), record.id).save(path)
            done += 1
            if progress is not None:
                progress(done, total)


def _free_path(folder: Path, record_id: str) -> Path:
    """`folder`/<last part of the id>.png, or with the whole id where that name is taken."""
    base, extension = os.path.splitext(os.path.basename(record_id))
    short = base if extension.lower() in EXTENSIONS else base + extension
    for name in (short, record_id.replace("/", "_")):
        path = folder / f"{name}.png"
        if not path.exists():
            return path
    raise RequestError(f"{path}: two examples would be written to this file")


def _channels(record: Record) -> int:
    if isinstance(record.image, np.ndarray):
        return 1 if record.image.ndim == 2 or record.image.shape[2] == 1 else 3
    rgb = np.asarray(decode(record.image, 3, record.id))
    return 1 if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all() else 3


def _open_split(root: Path, train_name: str, val_name: str, split: str) -> ImageFolder:
    classes = _subfolders(root / train_name)
    if split == "train":
        return _scan(root, train_name, classes)
    val_classes = _subfolders(root / val_name)
    extra = sorted(set(val_classes) - set(classes))
    if extra:
        raise RequestError(
            f"{root / val_name / extra[0]}: the class '{extra[0]}' is in {val_name}/ but not in {train_name}/"
            + (f" (and {len(extra) - 1} more)" if len(extra) > 1 else "")
        )
    missing = [name for name in classes if name not in set(val_classes)]
    if missing:
        log.warning(
            "%s has no folder for the class%s %s: its accuracy is not measured",
            root / val_name,
            "" if len(missing) == 1 else "es",
            ", ".join(f"'{name}'" for name in missing),
        )
    return _scan(root, val_name, classes, allow_missing=missing)


def _scan(root: Path, prefix: str, classes: Sequence[str], allow_missing: Sequence[str] = ()) -> ImageFolder:
    base = root / prefix
    if not classes:
        raise RequestError(
            f"{base}: holds no class folders; put each class's images into a folder of its own"
            + (f", {base}/<class>/*.jpg" if prefix else "")
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if name in allow_missing:
            continue
        found, others = _image_files(base / name)
        if not found:
            hint = f" ({len(others)} other files, such as {others[0]})" if others else ""
            raise RequestError(
                f"{base / name}: the class folder holds no images{hint}; add some or remove the folder"
            )
        relative = [Path(prefix, name, path).as_posix() for path in found]
        paths += relative
        labels += [label] * len(relative)
    return ImageFolder(root, classes, paths, labels)


def _image_files(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted image paths below `folder` (relative, nested ones too), and the names of other files."""
    found: list[str] = []
    others: list[str] = []
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        relative = pending.pop()
        here = folder / relative
        entries = _entries(here)
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:  # a symbolic link back into this class
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if _is_dir(entry):
                pending.append(path)
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                found.append(path)
            else:
                others.append(path)
    return sorted(found), sorted(others)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if _is_dir(entry))


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """The visible entries of a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise RequestError(
            f"{folder}: no such folder; give one with train/<class>/*.jpg and val/<class>/*.jpg, "
            "one with <class>/*.jpg (a part is held out), or the word digits"
        ) from None
    except PermissionError:
        raise RequestError(f"{folder}: no permission to list this folder") from None
    except NotADirectoryError:
        raise RequestError(f"{folder}: a file, not a folder of class folders") from None
    except OSError as error:
        raise RequestError(f"{folder}: cannot be listed ({error.strerror})") from None
