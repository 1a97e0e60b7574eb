"""Plain Netpbm pictures, whose pixels are decimal numbers: Pillow reads them one by one, this all at once."""

import re

import numpy as np
from PIL import Image

PLAIN = (b"P1", b"P2", b"P3")
_OTHER = re.compile(rb"[^\d\s]")
_COMMENT = re.compile(rb"#[^\r\n]*")


def plain_netpbm(img: Image.Image, data: bytes) -> Image.Image:
    """The pixels of a picture of which Pillow has read the header, as Pillow would decode them.

    Raises:
      ValueError: there are too few numbers, something else among them, or one above the header's largest.
    """
    width, height = img.size
    tile = getattr(img, "tile", [])[0]
    text = _COMMENT.sub(b" ", data[tile.offset :])
    if data[:2] == b"P1":  # digits that need no blanks between them; 1 is black
        digits = np.frombuffer(b"".join(text.split()), np.uint8)[: width * height] - np.uint8(ord("0"))
        _check(digits, width * height, 1)
        return Image.fromarray(np.where(digits == 1, 0, 255).astype(np.uint8).reshape(height, width))
    largest = int(tile.args[-1] if isinstance(tile.args, tuple) else tile.args)
    bands = 3 if data[:2] == b"P3" else 1
    wanted = width * height * bands
    other = _OTHER.search(text)
    numbers = text if other is None else text[: other.start()]
    values = np.fromstring(numbers.decode("ascii"), np.int64, sep=" ")[:wanted]
    _check(values, wanted, largest)
    full = 65535 if img.mode.startswith("I") else 255
    scaled = np.rint(values * (full / largest))
    shape = (height, width, 3) if bands == 3 else (height, width)
    return Image.fromarray(scaled.astype(np.int32 if full > 255 else np.uint8).reshape(shape))


def _check(values: np.ndarray, wanted: int, largest: int) -> None:
    if len(values) < wanted:
        raise ValueError(f"{len(values):,} numbers where {wanted:,} were promised")
    if values.size and (values.min() < 0 or values.max() > largest):
        raise ValueError(f"a number outside 0..{largest}")
