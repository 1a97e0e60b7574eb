"""Tar and WebDataset shards as a random-access source: an index of offsets, and `os.pread`."""

import collections
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from crosscale.contracts import Record
from crosscale.data.decode import BadImage
from crosscale.data.flat_val import read_class_list
from crosscale.data.index_cache import CACHED_FROM, Counter, load_index, pack_counts, save_index, unpack_counts
from crosscale.data.names import readable, say_passed_over, split_in, split_of
from crosscale.data.shards import choose_shards, find_shards, label_numbers
from crosscale.data.split import part_of
from crosscale.data.strings import Strings
from crosscale.data.tar_index import read_index
from crosscale.errors import RequestError


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
    that it lies in. classes.txt beside the shards names numbered classes. From a labelled sample's pictures the one
    without a second suffix is learnt: 7.jpg, not 7.seg.png.

    Raises:
      RequestError: a picture without a label, one outside the range, or a sample with two labels or pictures.
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
    place = ("tar", str(root.resolve()), readable(), *(file.name for file in files))
    stored = load_index(*place)
    if stored is not None and np.array_equal(stored.get("stamps", np.empty(0)), stamps):
        say_passed_over(root, unpack_counts(stored))
        names = Strings(stored["names"], stored["name_ends"])
        return names, stored["places"], list(Strings(stored["texts"], stored["text_ends"]))
    names_list: list[str] = []
    places: list[tuple[int, int, int]] = []
    texts: list[str] = []
    passed_over: collections.Counter[str] = collections.Counter()
    with Counter(f"reading {root}", "pictures") as counter:
        for number, file in enumerate(files):
            members, others = read_index(file)
            passed_over += others
            for member in members:
                names_list.append(member.name)
                places.append((number, member.offset, member.size))
                texts.append(member.label)
                counter.add(1)
    say_passed_over(root, passed_over)
    if not names_list:
        raise RequestError(f"{root}: the {len(files)} .tar files hold no images")
    names, packed = Strings.of(names_list), Strings.of(texts)
    array = np.asarray(places, np.int64)
    if len(names) >= CACHED_FROM:
        arrays = {"names": names.data, "name_ends": names.ends, "places": array, "stamps": stamps}
        arrays |= {"texts": packed.data, "text_ends": packed.ends}
        save_index({**arrays, **pack_counts(passed_over)}, *place)
    return names, array, texts
