"""Which pictures a tar shard holds, where their bytes lie, and what labels them."""

import collections
import json
import os
import posixpath
import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from crosscale.data.names import is_left_behind, is_picture
from crosscale.data.once import shared
from crosscale.errors import RequestError, WorkError

_BLOCK = 512  # bytes; all in a tar file is a multiple of it
_LABELS = (".cls", ".json")  # of a sample that has both, the first counts
_TEXTS = (".txt", ".tsv", ".csv")  # captions and lists, of which nothing is said


class Member(NamedTuple):
    """A picture of a shard.

    Attributes:
      offset, size: its bytes in the shard.
      label: as text; a class folder's name ends in "/", since a folder is a name, also where it is "1".
    """

    name: str
    offset: int
    size: int
    label: str


@shared
def read_index(file: Path) -> tuple[list[Member], "Counter[str]"]:
    """The pictures of one shard, and how many files are passed over, by extension.

    Raises:
      RequestError: a picture without a label, a sample with two labels or several pictures, or a link to nothing.
      WorkError: the shard is damaged or cannot be read.
    """
    found = _Contents(file)
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                found.add(tar, member)
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has passed
        if not _ends(file, found.end):
            raise tarfile.ReadError("its end mark is missing")
    except tarfile.ReadError as error:
        raise WorkError(
            f"{file}: the shard is cut short or no plain .tar ({error}), after {len(found.places)} images; "
            "copy it again"
        ) from None
    except OSError as error:
        raise WorkError(f"{file}: cannot be read ({error.strerror or error})") from None
    return found.members(), found.passed_over


class _Contents:
    """What a shard was found to hold so far.

    Attributes:
      places: picture -> where its bytes begin, and how many they are; None for a link.
      links: link -> what it names, and how it is called.
      labels: key of a sample -> extension -> the file that labels it, and the label.
      end: where the last member ends.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.length, self.end = file, file.stat().st_size, 0
        self.places: dict[str, tuple[int, int] | None] = {}
        self.links: dict[str, tuple[str, str]] = {}
        self.labels: dict[str, dict[str, tuple[str, str]]] = {}
        self.passed_over: Counter[str] = Counter()

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./")
        self.end = max(self.end, member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0))
        if any(map(is_left_behind, PurePosixPath(name).parts)):
            return
        extension = os.path.splitext(name)[1].lower()
        if is_picture(name) and (member.islnk() or member.issym()):  # the same bytes under another name
            beside = "" if member.islnk() else posixpath.dirname(name)  # a hard link names its target from the top
            kind = "hard" if member.islnk() else "symbolic"
            self.links[name] = posixpath.normpath(posixpath.join(beside, member.linkname)), kind
            self.places[name] = None
        elif not member.isfile():
            return
        elif member.offset_data + member.size > self.length:
            raise tarfile.ReadError("unexpected end of data")
        elif is_picture(name):
            self.places[name] = member.offset_data, member.size
        elif extension in _LABELS:
            content = tar.extractfile(member)
            text = _label_text(extension, b"" if content is None else content.read())
            if text is not None:
                self._add_label(name, extension, text)
        elif extension not in _TEXTS:
            self.passed_over[extension] += 1

    def members(self) -> list[Member]:
        """The pictures in the order of the shard. Raises RequestError."""
        result = []
        besides = self._besides()
        for name in self.places:
            if name in besides:
                continue
            folder = PurePosixPath(name).parent.name
            said = self.labels.get(_key(name), {})
            label = next((said[kind][1] for kind in _LABELS if kind in said), "") or (f"{folder}/" if folder else "")
            if not label:
                raise RequestError(
                    f"{self.file}: the image {name} has no label; add {_key(name)}.cls or put it into a folder per "
                    "class"
                )
            result.append(Member(name, *self._place(name), label))
        return result

    def _add_label(self, name: str, extension: str, text: str) -> None:
        said = self.labels.setdefault(_key(name), {})
        if extension in said:
            raise RequestError(
                f"{self.file}: {said[extension][0]} and {name} label one sample, '{_key(name)}', since a sample is "
                "named up to the first dot; rename them"
            )
        said[extension] = name, text

    def _place(self, name: str) -> tuple[int, int]:
        """Where a picture's bytes are, through its links."""
        seen: set[str] = set()
        at = name
        while at in self.links and at not in seen:
            seen.add(at)
            at = self.links[at][0]
        place = self.places.get(at)
        if place is None:
            target, kind = self.links[name]
            raise RequestError(f"{self.file}: {name} is a {kind} link to {target}, which is no picture of this shard")
        return place

    def _besides(self) -> set[str]:
        """Further pictures of labelled samples, such as 7.seg.png beside 7.jpg; counted as passed over."""
        samples = collections.defaultdict(list)
        for name in self.places:
            if _key(name) in self.labels:
                samples[_key(name)].append(name)
        besides: list[str] = []
        for key, names in samples.items():
            if len(names) < 2:
                continue
            own = [name for name in names if os.path.splitext(name)[0] == key]
            if len(own) != 1:
                raise RequestError(
                    f"{self.file}: the sample '{key}' has several pictures, {names[0]} and {names[1]}; keep one, or "
                    "rename them: a sample is named up to the first dot"
                )
            besides += [name for name in names if name != own[0]]
        self.passed_over.update("." + name[len(_key(name)) + 1 :].lower() for name in besides)
        return set(besides)


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
