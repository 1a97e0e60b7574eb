"""Tar and WebDataset shards as a random-access source: an index of offsets, and `os.pread`."""

import collections
import json
import logging
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from crosscale.contracts import Record
from crosscale.data.decode import BadImage
from crosscale.data.flat_val import read_class_list
from crosscale.data.index_cache import CACHED_FROM, Counter, load_index, save_index
from crosscale.data.names import is_left_behind, is_picture, passed_over_text, split_in, split_of
from crosscale.data.once import shared
from crosscale.data.shards import choose_shards, find_shards, label_numbers
from crosscale.data.split import part_of
from crosscale.data.strings import Strings
from crosscale.errors import RequestError, WorkError

log = logging.getLogger("crosscale.data")

_BLOCK = 512  # bytes; all in a tar file is a multiple of it


class TarShards:
    """Pictures inside uncompressed tar files.

    Attributes:
      classes: class names, in label order.
      files: the shards.
      names: (N) the pictures' names inside their shard.
      shard: (N,) int32, which shard.
      offset: (N,) int64, where the picture's bytes begin in it.
      size: (N,) int64, how many they are.
      labels: (N,) int32.
    """

    def __init__(
        self,
        classes: Sequence[str],
        files: Sequence[Path],
        names: Sequence[str],
        places: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        """`places` is (N, 3) int64: shard, offset, size."""
        self.classes: Sequence[str] = tuple(classes)
        self.files = list(files)
        self.names = names if isinstance(names, Strings) else Strings.of(names)
        self.places = places
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def record_id(self, index: int) -> str:
        """The shard's name and the picture's inside it."""
        return f"{self.files[int(self.places[index, 0])].name}/{self.names[index]}"

    def __getitem__(self, index: int) -> Record:
        shard, offset, size = (int(value) for value in self.places[index])
        name = self.record_id(index)
        try:
            descriptor = os.open(self.files[shard], os.O_RDONLY)
            try:
                data = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BadImage(name, f"the shard cannot be read ({error.strerror or error})") from None
        if len(data) < size:
            raise BadImage(name, "the shard is cut short before the end of this picture")
        return Record(name, data, int(self.labels[index]))

    def select(self, indices: np.ndarray) -> "TarShards":
        """The same shards with only these examples."""
        names = [self.names[int(i)] for i in indices]
        return TarShards(self.classes, self.files, names, self.places[indices], self.labels[indices])


def open_tar(root: Path, split: str, val_fraction: float, seed: int) -> TarShards:
    """One split of a folder of .tar shards.

    A picture's label is the text of the .cls file of the same key, the "label" of its .json file, or the folder
    that it lies in. classes.txt beside the shards names numbered classes.

    Raises:
      RequestError: a picture without a label, or one outside the range.
      WorkError: a shard is cut short.
    """
    found = find_shards(root, ".tar")
    files, one_part = choose_shards(root, found, split)
    classes = read_class_list(root)
    if classes is None and not one_part and split == "val":
        classes = tuple(open_tar(root, "train", val_fraction, seed).classes)
    names, places, texts = _read_indices(root, files)
    if one_part and (parts := _parts_inside(names, texts)) is not None:
        if split == "all":
            raise RequestError(f"{root}: its shards hold a part to train on and one held out; say train or val")
        trained = np.flatnonzero(parts)
        classes = label_numbers([texts[i] for i in trained], classes, f"{root}: train")[1]
        chosen = np.flatnonzero(parts if split == "train" else ~parts)
        labels, classes = label_numbers([texts[i] for i in chosen], classes, f"{root}: {split}")
        return TarShards(classes, files, [names[int(i)] for i in chosen], places[chosen], labels)
    labels, classes = label_numbers(texts, classes, f"{root}: {split}")
    whole = TarShards(classes, files, names, places, labels)
    if not one_part or split == "all":
        return whole
    ids = [whole.record_id(index) for index in range(len(whole))]
    return part_of(whole, ids, whole.labels, split, val_fraction, seed, str(root))


def _parts_inside(names: Sequence[str], texts: Sequence[str]) -> np.ndarray | None:
    """Which pictures are for training, by the folders inside the shards; None where these do not divide all of them."""
    trained = np.zeros(len(names), bool)
    for index, (name, text) in enumerate(zip(names, texts, strict=True)):
        folders = PurePosixPath(name).parts[:-1]
        above = folders[:-1] if folders[-1:] == (text.removesuffix("/"),) else folders  # the class's own is no split
        split = next(filter(None, (says(folder) for says in (split_of, split_in) for folder in above)), "")
        if not split:
            return None
        trained[index] = split == "train"
    return trained if trained.any() and not trained.all() else None


def _read_indices(root: Path, files: Sequence[Path]) -> tuple[Strings, np.ndarray, list[str]]:
    stamps = np.array([[file.stat().st_size, file.stat().st_mtime_ns] for file in files], np.int64)
    place = ("tar", str(root.resolve()), *(file.name for file in files))
    stored = load_index(*place)
    if stored is not None and np.array_equal(stored.get("stamps", np.empty(0)), stamps):
        names = Strings(stored["names"], stored["name_ends"])
        return names, stored["places"], list(Strings(stored["texts"], stored["text_ends"]))
    names_list: list[str] = []
    places: list[tuple[int, int, int]] = []
    texts: list[str] = []
    with Counter(f"reading {root}", "pictures") as counter:
        for number, file in enumerate(files):
            for name, offset, size, text in _read_index(file):
                names_list.append(name)
                places.append((number, offset, size))
                texts.append(text)
                counter.add(1)
    if not names_list:
        raise RequestError(f"{root}: the {len(files)} .tar files hold no images")
    names, packed = Strings.of(names_list), Strings.of(texts)
    array = np.asarray(places, np.int64)
    if len(names) >= CACHED_FROM:
        arrays = {"names": names.data, "name_ends": names.ends, "places": array, "stamps": stamps}
        save_index({**arrays, "texts": packed.data, "text_ends": packed.ends}, *place)
    return names, array, texts


@shared
def _read_index(file: Path) -> list[tuple[str, int, int, str]]:
    """(name, offset, size, label as text) of each picture of one shard."""
    images: list[tuple[str, int, int]] = []
    others: collections.Counter[str] = collections.Counter()
    labels: dict[str, str] = {}
    places: dict[str, tuple[int, int]] = {}
    end = 0
    length = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                end = max(end, member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0))
                if any(map(is_left_behind, PurePosixPath(name).parts)):
                    continue
                if member.islnk() and is_picture(name):  # the same bytes under another name
                    target = member.linkname.removeprefix("./")
                    if target not in places:
                        raise RequestError(f"{file}: {name} is a hard link to {target}, which does not come before it")
                    images.append((name, *places[target]))
                if not member.isfile():
                    continue
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                extension = os.path.splitext(name)[1].lower()
                if is_picture(name):
                    images.append((name, member.offset_data, member.size))
                    places[name] = member.offset_data, member.size
                elif extension in (".cls", ".json"):
                    content = tar.extractfile(member)
                    text = b"" if content is None else content.read()
                    if (label := _label_text(extension, text)) is not None:
                        labels[_key(name)] = label
                elif extension not in (".txt", ".tsv", ".csv"):
                    others[extension] += 1
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has passed
        if not _ends(file, end):
            raise tarfile.ReadError("its end mark is missing")
    except tarfile.ReadError as error:
        raise WorkError(
            f"{file}: the shard is cut short or no plain .tar ({error}), after {len(images)} images; copy it again"
        ) from None
    except OSError as error:
        raise WorkError(f"{file}: cannot be read ({error.strerror or error})") from None
    if others:
        log.warning("%s: %s", file, passed_over_text(others))
    result = []
    for name, offset, size in images:
        folder = PurePosixPath(name).parent.name
        label = labels.get(_key(name)) or (f"{folder}/" if folder else "")  # a folder is a name, also where it is "1"
        if not label:
            raise RequestError(
                f"{file}: the image {name} has no label; add {_key(name)}.cls or put it into a folder per class"
            )
        result.append((name, offset, size, label))
    return result


def _ends(file: Path, end: int) -> bool:
    """Whether a block of zeros follows the last member, as in every archive that was written to its end."""
    with file.open("rb") as opened:
        opened.seek(end)
        return opened.read(_BLOCK) == bytes(_BLOCK)


def _label_text(extension: str, content: bytes) -> str | None:
    text = content.decode("utf-8", "replace").strip()
    if extension == ".cls":
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return None
    label = value.get("label") if isinstance(value, dict) else None
    return None if label is None else str(label)


def _key(name: str) -> str:
    """WebDataset's key: the path up to the first dot of the file name."""
    folder, _, file = name.rpartition("/")
    stem = file.split(".", 1)[0]
    return f"{folder}/{stem}" if folder else stem
