"""What is wrong with labelled pictures, and what they are like: every file is read, decoded and compared by content."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from crosscale.contracts import LabelledSource
from crosscale.data.decode import BadImage, decode, open_encoded
from crosscale.data.full_depth import is_npy, is_tiff, read_full
from crosscale.errors import WorkError


class Place(NamedTuple):
    """A picture: its split, its id there and its class."""

    split: str
    id: str
    label: str


@dataclass(frozen=True)
class PictureCheck:
    """What a look at every picture found.

    Attributes:
      pictures: how many were looked at.
      problems: a line for each one that does not decode.
      sizes: (N, 2) int32, height and width of those that do.
      modes: how many of them are of which of Pillow's modes, such as "RGB", "L" (grey) or "P" (a palette).
      equal: groups of pictures of equal content, the largest first; none is in two groups.
    """

    pictures: int
    problems: tuple[str, ...]
    sizes: np.ndarray
    modes: Mapping[str, int]
    equal: tuple[tuple[Place, ...], ...]

    @property
    def leaks(self) -> list[tuple[Place, ...]]:
        """Groups that are both to train on and held out."""
        return [group for group in self.equal if len({place.split for place in group}) > 1]

    @property
    def disputed(self) -> list[tuple[Place, ...]]:
        """Groups of several classes."""
        return [group for group in self.equal if len({place.label for place in group}) > 1]


class _Seen(NamedTuple):
    place: Place
    digest: bytes
    size: tuple[int, int]
    mode: str
    problem: str | None


def check_pictures(
    sources: Mapping[str, LabelledSource], progress: Callable[[int, int], None] = lambda done, total: None
) -> PictureCheck:
    """Looks at every picture of every split.

    Args:
      sources: split -> its pictures.
      progress: told (pictures done, all pictures).
    """
    positions = [(split, index) for split, source in sources.items() for index in range(len(source))]
    seen: list[_Seen] = []
    # Pillow and hashlib release the interpreter, so threads do run at once.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for found in pool.map(lambda pair: _look(sources[pair[0]], *pair), positions):
            seen.append(found)
            progress(len(seen), len(positions))
    good = [item for item in seen if item.problem is None]
    groups: dict[bytes, list[Place]] = {}
    for item in good:
        groups.setdefault(item.digest, []).append(item.place)
    equal = sorted((tuple(group) for group in groups.values() if len(group) > 1), key=lambda g: (-len(g), g[0]))
    return PictureCheck(
        pictures=len(seen),
        problems=tuple(item.problem for item in seen if item.problem is not None),
        sizes=np.array([item.size for item in good], np.int32).reshape(-1, 2),
        modes=dict(Counter(item.mode for item in good).most_common()),
        equal=tuple(equal),
    )


def _look(source: Any, split: str, index: int) -> _Seen:
    try:
        record = source[index]
        place = Place(split, record.id, source.classes[record.target])
        images = record.image if isinstance(record.image, tuple) else (record.image,)
        contents, sizes, modes = zip(*(_content(image, record.id) for image in images), strict=True)
        return _Seen(place, sha256(b"".join(contents)).digest(), sizes[0], modes[0], None)
    except BadImage as error:
        return _Seen(Place(split, error.name, ""), b"", (0, 0), "", str(error))
    except WorkError as error:
        return _Seen(Place(split, str(index), ""), b"", (0, 0), "", f"picture {index} of {split}: {error}")


def _content(image: Any, name: str) -> tuple[bytes, tuple[int, int], str]:
    """What tells the picture from others, its height and width, and its mode. Raises BadImage."""
    if isinstance(image, np.ndarray):
        decode(image, 3, name)
        mode = "L" if image.ndim == 2 or image.shape[2] == 1 else "RGB"
        return (
            repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(),
            (image.shape[0], image.shape[1]),
            mode,
        )
    if is_npy(image) or (is_tiff(image) and not _is_pillows(image)):
        height, width, channels = read_full(image, None, name).shape
        return image, (height, width), f"{channels} channels"
    opened = open_encoded(image, name)
    found = image, (opened.height, opened.width), opened.mode
    decode(image, 3, name)
    return found


def _is_pillows(data: bytes) -> bool:
    try:
        open_encoded(data, "")
    except BadImage:
        return False
    return True


def spread_of(sizes: np.ndarray) -> dict[str, Sequence[int]] | None:
    """Height and width of the pictures of least, middle and most pixels; None where there are none."""
    if not len(sizes):
        return None
    order = np.argsort(sizes.astype(np.int64).prod(1), kind="stable")
    places = (("smallest", 0), ("median", len(order) // 2), ("largest", -1))
    return {name: sizes[order[place]].tolist() for name, place in places}
