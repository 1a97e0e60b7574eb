"""Netpbm pictures that Pillow reads number by number: the plain ones, of decimal numbers, and those of an odd largest
number. Here they are read all at once."""

import re

import numpy as np
from PIL import Image

_ONE_BY_ONE = ("ppm", "ppm_plain")  # what Pillow calls these decoders
_OTHER = re.compile(rb"[^\d\s]")
_COMMENT = re.compile(rb"#[^\r\n]*")


def is_read_one_by_one(img: Image.Image) -> bool:
    """Whether a picture whose header is read is one of these."""
    tiles = getattr(img, "tile", [])
    return bool(tiles) and tiles[0].codec_name in _ONE_BY_ONE


def read_netpbm(img: Image.Image, data: bytes) -> Image.Image:
    """The pixels of a picture whose header Pillow has read, as Pillow would decode them.

    Raises:
      ValueError: too few numbers; in a plain picture something else among them, or one above the header's largest.
    """
    width, height = img.size
    tile = getattr(img, "tile", [])[0]
    if data[:2] == b"P1":  # digits that need no blanks between them; 1 is black
        text = _COMMENT.sub(b" ", data[tile.offset :])
        digits = np.frombuffer(b"".join(text.split()), np.uint8)[: width * height] - np.uint8(ord("0"))
        _check(digits, width * height, 1)
        return Image.fromarray(np.where(digits == 1, 0, 255).astype(np.uint8).reshape(height, width))
    largest = int(tile.args[-1] if isinstance(tile.args, tuple) else tile.args)
    bands = 3 if data[:2] in (b"P3", b"P6") else 1
    wanted = width * height * bands
    if data[:2] in (b"P2", b"P3"):
        values = _decimal(data[tile.offset :], wanted)
        _check(values, wanted, largest)
    else:
        size = 1 if largest < 256 else 2
        there = min(wanted, (len(data) - tile.offset) // size)
        values = np.frombuffer(data, np.uint8 if size == 1 else ">u2", there, tile.offset)
        _check(values, wanted, 65535)  # what is above the largest is taken for it
    full = 65535 if img.mode.startswith("I") else 255
    scaled = np.minimum(np.rint(np.arange(1 << 16) / largest * full), full)
    shape = (height, width, 3) if bands == 3 else (height, width)
    return Image.fromarray(scaled.astype(np.int32 if full > 255 else np.uint8)[values].reshape(shape))


def _decimal(data: bytes, wanted: int) -> np.ndarray:
    text = _COMMENT.sub(b" ", data)
    other = _OTHER.search(text)
    numbers = text if other is None else text[: other.start()]
    return np.fromstring(numbers.decode("ascii"), np.int64, sep=" ")[:wanted]


def _check(values: np.ndarray, wanted: int, largest: int) -> None:
    if len(values) < wanted:
        raise ValueError(f"{len(values):,} numbers where {wanted:,} were promised")
    if values.size and (values.min() < 0 or values.max() > largest):
        raise ValueError(f"a number outside 0..{largest}")
