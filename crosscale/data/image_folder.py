"""A folder of class folders as a source, and any source written out as such a folder."""

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crosscale.contracts import LabelledSource, Record
from crosscale.data.decode import open_image
from crosscale.data.flat_val import find_labels, open_flat
from crosscale.data.names import (
    HELD_OUT,
    LONGEST,
    advice_on,
    count_extensions,
    is_array,
    is_left_behind,
    is_picture,
    say_once,
    say_passed_over,
    split_of,
    split_words,
)
from crosscale.data.reading import read_eight_bits
from crosscale.data.scan import entries, is_dir, scan, subfolders
from crosscale.data.split import part_of
from crosscale.data.strings import Strings
from crosscale.errors import RequestError, WorkError

log = logging.getLogger("crosscale.data")


class ImageFolder:
    """The image files below one folder per class.

    Attributes:
      root: what record ids are relative to.
      classes: class names, sorted; the label is the position.
      paths: POSIX paths relative to `root`, sorted within their class.
      labels: (N,) int32.
    """

    def __init__(
        self, root: Path, classes: Sequence[str], paths: Sequence[str], labels: Sequence[int] | np.ndarray
    ) -> None:
        self.root = root
        self.classes: Sequence[str] = tuple(classes)
        self.paths = paths if isinstance(paths, Strings) else Strings.of(paths)
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return Record(path, open_image(self.root / path), int(self.labels[index]))

    def record_id(self, index: int) -> str:
        """The picture's path below `root`."""
        return self.paths[index]

    def select(self, indices: Iterable[int]) -> "ImageFolder":
        """The same folder with only these examples."""
        chosen = np.fromiter(indices, np.int64)
        return ImageFolder(self.root, self.classes, [self.paths[int(i)] for i in chosen], self.labels[chosen])


def open_folder(root: Path, split: str, val_fraction: float, seed: int) -> ImageFolder:
    """One split of `root`, which holds train/ and val/, or the class folders themselves."""
    folders = subfolders(root)
    train_name, val_name = split_folders(root, folders)
    if train_name is not None and val_name is not None:
        if split == "all":
            raise RequestError(
                f"{root}: has {train_name}/ and {val_name}/, so no one part is all of it; "
                f"give {root / train_name} or {root / val_name}"
            )
        return _open_split(root, train_name, val_name, split)
    if folders and all(map(split_of, folders)):
        _refuse_half(root, folders, train_name)
    _check_inner(root, folders)
    whole = _class_folders(root, "", folders)
    return part_of(whole, whole.paths, whole.labels, split, val_fraction, seed, str(root))


def split_folders(root: Path, folders: Sequence[str]) -> tuple[str | None, str | None]:
    """Which of `folders` is for training and which is held out, by their names; None for none.

    Raises:
      RequestError: two have the same claim, such as train/ and training/.
    """
    words = split_words(folders)
    train = [name for name, word in words.items() if split_of(word) == "train"]
    held_out = sorted((name for name, word in words.items() if word in HELD_OUT), key=lambda name: _claim(words[name]))
    for same in (train, [name for name in held_out if words[name] == words[held_out[0]]]):
        if len(same) > 1:
            raise RequestError(f"{root}: has {' and '.join(f'{name}/' for name in same)}; merge or rename one of them")
    return next(iter(train), None), next(iter(held_out), None)


def _claim(name: str) -> int:
    return HELD_OUT.index(name.casefold())


def _refuse_half(root: Path, folders: Sequence[str], train_name: str | None) -> None:
    held = " and ".join(f"{name}/" for name in folders)
    if train_name is not None:
        advice = f"add val/<class>/, or give {root / train_name} to hold out a part of it"
        raise RequestError(f"{root}: has {held} but no val/; {advice}")
    name = min(folders, key=_claim)
    raise RequestError(
        f"{root}: has {held} but no train/; add train/<class>/, or to measure all of {name}/ alone give "
        f"--data-dir {root / name} --split all"
    )


def _check_inner(root: Path, folders: Sequence[str]) -> None:
    """Refuses folders of classes that are parts of the data or hold such: they would be learnt from without a word.

    Two folders tell, which hold folders of the same names themselves.
    """
    named = sorted(folders, key=lambda name: not split_of(name))[:2]
    inner = [subfolders(root / name) for name in named]
    if len(named) < 2 or not (common := sorted(set(inner[0]) & set(inner[1]))):
        return
    first, second = named
    train_name, val_name = split_folders(root / first, common)
    if train_name is not None and val_name is not None:
        raise RequestError(
            f"{root}: its class folders hold {train_name}/ and {val_name}/; put these first: {train_name}/<class>/, "
            f"{val_name}/<class>/"
        )
    if split_of(first):
        raise RequestError(
            f"{root}: has {first}/ and {second}/, which hold the same folders ({', '.join(common[:3])}); call them "
            f"train/ and val/, or give {root / first} to hold out a part of it"
        )
    if len(common) > 1 and inner[0] == inner[1]:
        say_once(
            root,
            f"takes {first}/ and {second}/ for classes, and they hold the same folders ({', '.join(common[:3])}); if "
            "these are the classes, call the others train/ and val/",
        )


def write_image_folder(
    sources: Mapping[str, LabelledSource], out: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes each source as `out/<split>/<class>/<name>.png`: 8 bits, grey or RGB, lossless.

    Args:
      sources: split name ("train", "val") -> source.
      progress: called with (pictures written, pictures in all).

    Raises:
      RequestError: `out` already holds one of the splits, two ids give one file name, or an example is of several
        pictures.
      BadImage: a picture of a source does not decode.
    """
    out = Path(out)
    for split, source in sources.items():
        _check_names(out / split, source.classes)
        if (out / split).exists():
            raise RequestError(f"{out / split}: already exists; choose another folder or remove it")
    total = sum(len(source) for source in sources.values())
    done = 0
    for split, source in sources.items():
        for name in source.classes:
            (out / split / name).mkdir(parents=True)
        for index in range(len(source)):
            record = source[index]
            if isinstance(record.image, tuple):
                raise RequestError(f"{record.id}: is of several pictures, which one file of a folder cannot hold")
            path = _free_path(out / split / source.classes[record.target], record.id)
            _save(read_eight_bits(record.image, _channels(record), record.id), path)
            done += 1
            if progress is not None:
                progress(done, total)


def _save(img: Image.Image, path: Path) -> None:
    try:
        img.save(path)
    except OSError as error:
        path.unlink(missing_ok=True)  # half a picture is worse than none
        raise WorkError(
            f"{path}: cannot be written ({error.strerror or error}); the files before it are whole"
        ) from None


def _free_path(folder: Path, record_id: str) -> Path:
    """`folder`/<last part of the id>.png, or with the whole id where that name is taken."""
    base, extension = os.path.splitext(os.path.basename(record_id))
    short = base if is_picture(record_id) or is_array(record_id) else base + extension
    for name in (short, record_id.replace("/", "_")):
        path = folder / f"{name}.png"
        if not path.exists():
            return path
    raise RequestError(f"{path}: two examples would be written to this file")


def _channels(record: Record) -> int:
    if isinstance(record.image, np.ndarray):
        return 1 if record.image.ndim == 2 or record.image.shape[2] == 1 else 3
    rgb = np.asarray(read_eight_bits(record.image, 3, record.id))
    return 1 if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all() else 3


def _open_split(root: Path, train_name: str, val_name: str, split: str) -> ImageFolder:
    classes = subfolders(root / train_name)
    if split == "train":
        return _class_folders(root, train_name, classes)
    val_classes = subfolders(root / val_name)
    if not val_classes and classes and (labels := find_labels(root, val_name)) is not None:
        paths, numbers = open_flat(root, val_name, labels, classes, train_name)
        others = [e.name for e in entries(root / val_name) if not is_picture(e.name) and e.name != labels.name]
        say_passed_over(root / val_name, count_extensions(others))
        return ImageFolder(root, classes, paths, numbers)
    extra = sorted(set(val_classes) - set(classes))
    if extra:
        raise RequestError(
            f"{root / val_name / extra[0]}: the class '{extra[0]}' is in {val_name}/ but not in {train_name}/"
            + (f" (and {len(extra) - 1} more)" if len(extra) > 1 else "")
        )
    missing = [name for name in classes if name not in set(val_classes)]
    if missing and val_classes:
        log.warning(
            "%s has no folder for the class%s %s: its accuracy is not measured",
            root / val_name,
            "" if len(missing) == 1 else "es",
            ", ".join(f"'{name}'" for name in missing),
        )
    return _class_folders(root, val_name, classes, present=val_classes)


def _class_folders(
    root: Path, prefix: str, classes: Sequence[str], present: Sequence[str] | None = None
) -> ImageFolder:
    """The images below root / prefix / <class>, for the classes that are `present` (None: all)."""
    base = root / prefix
    wanted = list(classes if present is None else present)
    if not wanted:
        raise RequestError(f"{base}: holds no class folders; {_flat_advice(base, prefix)}")
    _check_names(base, classes)
    for place in {root: None, base: None}:
        _say_loose(place)
    found = scan(root, [f"{prefix}/{name}" if prefix else name for name in wanted])
    counts = np.bincount(found.owner, minlength=len(wanted))
    if (empty := np.flatnonzero(counts == 0)).size:
        others = found.others[int(empty[0])]
        hint = f" (but other files, such as {others[0]})" if others else ""
        raise RequestError(
            f"{base / wanted[int(empty[0])]}: the class folder holds no images{hint}; add some or remove the folder"
        )
    say_passed_over(base, found.passed_over)
    position = {name: label for label, name in enumerate(classes)}
    labels = np.array([position[name] for name in wanted], np.int32)[found.owner]
    return ImageFolder(root, classes, found.paths, labels)


def _say_loose(folder: Path) -> None:
    """Says which pictures lie beside the class folders, where they have no class."""
    loose = sorted(entry.name for entry in entries(folder) if is_picture(entry.name) and not is_dir(entry))
    if loose:
        say_once(
            folder,
            f"{len(loose):,} picture{'s lie' if len(loose) > 1 else ' lies'} beside the class folders, such as "
            f"{loose[0]}, and {'are' if len(loose) > 1 else 'is'} left out: without a class",
        )


def _flat_advice(base: Path, prefix: str) -> str:
    images = sorted(entry.name for entry in entries(base) if not is_dir(entry) and is_picture(entry.name))
    if images and prefix and split_of(prefix) != "train":
        return (
            f"its {len(images)} images need a text file of their labels beside it "
            f"({base.parent / f'{prefix}.txt'} with lines such as '{images[0]} 65'), or one folder per class"
        )
    where = f", {base}/<class>/*.jpg" if prefix else ""
    files = [] if images else sorted(entry.name for entry in entries(base) if not is_dir(entry))
    told = next((f"{name} is passed over ({advice}); " for name in files if (advice := advice_on(name))), "")
    return f"{told}put each class's images into a folder of its own{where}"


def _check_names(base: Path, classes: Sequence[str]) -> None:
    """Refuses names of classes that cannot be folders, or that another file system or a text file would mix up."""
    seen: dict[str, str] = {}
    for name in classes:
        if not name or name in (".", "..") or any(letter in name for letter in "/\\\0") or name != name.strip():
            raise RequestError(f"{base}: the class {name!r} cannot be the name of a folder; rename it")
        if len(os.fsencode(name)) > LONGEST:
            raise RequestError(f"{base}: the class {name[:30]!r}... has too long a name for a folder; shorten it")
        if is_left_behind(name):
            raise RequestError(f"{base}: a folder {name!r} would be passed over; rename the class")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{base}: the folder {name!r} has a name that is not UTF-8; rename it") from None
        if "\n" in name or "\r" in name:
            raise RequestError(f"{base}: the folder {name!r} has a line break in its name; rename it")
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise RequestError(
                f"{base}: the class folders '{seen[key]}' and '{name}' differ only in case or in the spelling of "
                "accents; merge or rename one of them"
            )
        seen[key] = name
