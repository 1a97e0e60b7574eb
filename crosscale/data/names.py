"""What the names of files and folders say, in one table each for every kind of source."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

log = logging.getLogger("crosscale.data")

# Split -> what its folder, shard, column or array is called; the first that is there counts.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
HELD_OUT = (*SPLITS["val"], *SPLITS["test"])  # "test" stands in where nothing is called validation

LONGEST = 255  # bytes of the name of a file or folder on most file systems

_NAMES = "avif bmp gif jfif jpe jpeg jpg pbm pgm png ppm tif tiff webp"
_EXTENSIONS = frozenset(f".{name}" for name in _NAMES.split())
_HEIF = frozenset((".heic", ".heif", ".hif"))
_DICOM = frozenset((".dcm", ".dicom"))
_ARRAY = ".npy"
_SHARD = "a shard of pictures: crosscale data FOLDER --write OTHER makes picture files of it"
# Files that are not read as pictures, by what to do about them.
_OTHERS = {
    "a raw photograph: develop it to JPEG or TIFF first": ".arw .cr2 .cr3 .dng .nef .orf .raf .raw .rw2",
    "convert it to JPEG or PNG first": ".dds .exr .hdr .ico .j2k .jp2 .jpx .jxl .pcx .psd .svg .tga .xcf",
    "a document: save its pages as pictures first": ".eps .pdf .ps",
    "a film: take pictures from it first": ".avi .m4v .mkv .mov .mp4 .webm",
    "packed: unpack it first": ".7z .bz2 .gz .rar .tgz .xz .zip .zst",
    "a table: save it as CSV first": ".ods .xls .xlsx",
    _SHARD: ".parquet .tar",
}
_OTHER_REASONS = {extension: reason for reason, names in _OTHERS.items() for extension in names.split()}
_HEIF_REASON = "HEIC is read where pillow-heif is installed: pip install 'crosscale[heif]'"
DICOM_REASON = "DICOM is read where pydicom is installed: pip install 'crosscale[dicom]'"
_NO_PICTURE = "no pictures"
# What operating systems, servers and archivers leave beside a user's files, in lower case.
_FOLDERS = "@eadir @recycle @tmp #recycle #snapshot ~snapshot $recycle.bin recycler __macosx __pycache__ lost+found"
_FILES = "desktop.ini ehthumbs.db picasa.ini thumbs.db"
_LEFT_BEHIND = frozenset((*_FOLDERS.split(), "system volume information", *_FILES.split()))


def split_of(folder: str) -> str:
    """The split that a folder (or the whole of another name) is called after: "train", "val", "test" or ""."""
    name = folder.casefold()
    return next((split for split, words in SPLITS.items() if name in words), "")


def split_in(name: str) -> str:
    """The split that is a word of a file's name, such as "photos-train-0001.tar"; "" for none."""
    return split_of(_word_in(name))


def split_words(folders: Sequence[str]) -> dict[str, str]:
    """Folder -> the word that says its split, "" for none.

    That is its whole name, or, where the folders are all of splits, a part of it: training_set/ and test_set/.
    """
    parts = {name: _word_in(name) for name in folders}
    splits = {split_of(word) for word in parts.values()}
    if "train" in splits and len(splits) > 1 and "" not in splits:
        return parts
    return {name: name.casefold() if split_of(name) else "" for name in folders}


def _word_in(name: str) -> str:
    for words in SPLITS.values():
        found = re.search(rf"(^|[-_./])({'|'.join(words)})([-_./0-9]|$)", name.lower())
        if found is not None:
            return found[2]
    return ""


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is hidden, or what another program left there."""
    return name.startswith(".") or name.casefold() in _LEFT_BEHIND


def extensions() -> frozenset[str]:
    """How the names of pictures end, in lower case."""
    return _EXTENSIONS | (_HEIF if reads_heif() else frozenset()) | (_DICOM if reads_dicom() else frozenset())


def readable() -> str:
    """All of `extensions` as one text, for what is kept of a folder: an installed reader makes it another folder."""
    return " ".join(sorted(extensions()))


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its name."""
    extension = os.path.splitext(name)[1].lower()
    return extension in _EXTENSIONS or (extension in _HEIF and reads_heif()) or (extension in _DICOM and reads_dicom())


def is_array(name: str) -> bool:
    """Whether a file holds an array, which is a picture where a folder has no other ones."""
    return name.lower().endswith(_ARRAY)


@cache
def reads_heif() -> bool:
    """Whether the optional reader of HEIC files is installed."""
    return find_spec("pillow_heif") is not None


@cache
def reads_dicom() -> bool:
    """Whether the optional reader of DICOM files is installed."""
    return find_spec("pydicom") is not None


def why_passed_over(name: str) -> str:
    """Why a file is not taken for a picture."""
    extension = os.path.splitext(name)[1].lower()
    optional = dict.fromkeys(_HEIF, _HEIF_REASON) | dict.fromkeys(_DICOM, DICOM_REASON)
    return optional.get(extension) or _OTHER_REASONS.get(extension, _NO_PICTURE)


def advice_on(name: str) -> str:
    """What to do about a file that stands where a folder is wanted; "" where its name says nothing."""
    reason = why_passed_over(name)
    if reason == _SHARD:
        return "a shard of pictures: give its folder"
    return "" if reason == _NO_PICTURE else reason


def advice_on_picture(name: str) -> str:
    """What to do about a file that is no picture where one is wanted; "" where its name says nothing."""
    reason = why_passed_over(name)
    return "" if reason == _NO_PICTURE or is_picture(name) else reason


def what_instead(place: Path) -> str:
    """What stands where a folder is wanted, and what to do about it."""
    if not place.exists():
        return "no such folder"
    advice = advice_on(place.name)
    return f"a file, not a folder{advice and f' ({advice})'}"


def count_extensions(names: Iterable[str]) -> "Counter[str]":
    """Extension in lower case -> files."""
    return Counter(os.path.splitext(name)[1].lower() for name in names)


def passed_over_text(counts: Mapping[str, int]) -> str:
    """One line of what was passed over: how many files of which kinds, and why.

    Args:
      counts: as `count_extensions` gives them, not empty.
    """
    groups: dict[str, Counter[str]] = {}
    for extension, count in counts.items():
        groups.setdefault(why_passed_over(f"x{extension}"), Counter())[extension] += count
    parts = []
    for reason in sorted(groups, key=lambda reason: (reason == _NO_PICTURE, reason)):
        kinds = ", ".join(f"{count:,} {extension or 'without a suffix'}" for extension, count in groups[reason].items())
        parts.append(f"{kinds} ({reason})")
    total = sum(counts.values())
    return f"passed over {total:,} file{'s' if total > 1 else ''}: {'; '.join(parts)}"


def say_passed_over(where: Path, counts: Mapping[str, int]) -> None:
    """Logs once how many files below a folder are not read, and why."""
    if counts:
        say_once(where, passed_over_text(counts))


_said: set[tuple[str, str]] = set()  # the parts of one folder are opened one after another


def say_once(where: str | Path, text: str) -> None:
    """Logs a warning about a place, and the same one never again."""
    if (line := (str(where), text)) not in _said:
        _said.add(line)
        log.warning("%s: %s", *line)
