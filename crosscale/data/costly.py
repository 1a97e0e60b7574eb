"""Small files that ask for much work or memory: found by what they declare, before a pixel is decoded."""

import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image

_SCAN = b"\xff\xda"  # the marker that begins a JPEG's scan
_SCANS = 32
_SCANNED_PIXELS = 500_000_000  # of all scans together: some seconds
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # of what has a length, or of the end
_SEGMENTS = 20_000
_TILE_PIXELS = 1 << 22  # of a TIFF's tile, which is decoded whole however little of it the picture shows
_TILE_SHARE = 4
_TILES = 100_000  # that a file may be cut into: Pillow decodes them one by one, some microseconds each
_RUN_LENGTH_PIXELS = 1 << 23  # of a BMP in run lengths, which Pillow reads one by one: some seconds
_READS = 1_000_000  # of a file's pieces, one by one: about a second
_PROFILES = 4  # colour profiles of a PNG, each of which is unfolded, to 16 MB at most

Work = Callable[[], Exception]


class Pieces(BytesIO):
    """A file's bytes for Pillow, which walks through headers piece by piece; too many are refused.

    A file of 16 MB may consist of millions of empty blocks, comments or padding bytes, at each of which
    Python stops.
    """

    def __init__(self, data: bytes, refused: Work) -> None:
        """
        Args:
          refused: makes the error that is raised.
        """
        super().__init__(data)
        self._left = _READS
        self._refused = refused

    def read(self, size: int | None = -1, /) -> bytes:
        """As for every file, but only so many times."""
        self._left -= 1
        if self._left < 0:
            raise self._refused()
        return super().read(size)


def has_too_many_profiles(data: bytes) -> bool:
    """Whether a PNG holds colour profiles by the hundred. By chance a large one names five in none of its pixels."""
    return data.startswith(b"\x89PNG") and data.count(b"iCCP") > _PROFILES


def why_too_costly(img: Image.Image, data: bytes) -> str | None:
    """Why a picture with only its header read is not decoded; None where it may be."""
    pixels = img.width * img.height
    if has_too_many_scans(data, pixels):
        return f"a JPEG of {_scans(data)} scans, which would take minutes; save it anew"
    if reason := why_tiles_cost(_tile_pixels(img), pixels):
        return reason
    tiles: Any = getattr(img, "tile", None)
    if tiles and len(tiles) > _TILES:
        return f"a picture in {len(tiles):,} strips; save it anew"
    if tiles and tiles[0].codec_name == "bmp_rle" and pixels > _RUN_LENGTH_PIXELS:
        return f"a BMP in run lengths of more than {_RUN_LENGTH_PIXELS:,} pixels; save it anew, as PNG"
    return None


def why_tiles_cost(tile: int, pixels: int) -> str | None:
    """Why a TIFF of so many pixels, and so many in one tile, is not decoded; None where it may be."""
    if tile <= max(_TILE_PIXELS, _TILE_SHARE * pixels):
        return None
    return f"a TIFF whose tiles have {tile:,} pixels, more than the picture; save it anew"


def has_too_many_scans(data: bytes, pixels: int) -> bool:
    """Whether a JPEG asks for far more work than its pixels: each scan of a progressive one passes over them all.

    Encoders write some ten.
    """
    if not data.startswith(b"\xff\xd8") or data.count(_SCAN) <= _SCANS:
        return False
    scans = _scans(data)
    return scans > _SCANS and scans * pixels > _SCANNED_PIXELS


def _scans(data: bytes) -> int:
    """The scans of a JPEG up to its end; a thumbnail in its header and a film behind it (phones) have their own.

    After `_SEGMENTS` parts every mark counts.
    """
    scans, place = 0, 2
    for _ in range(_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None or data[found.end() - 1] == 0xD9:
            return scans
        scans += data[found.end() - 1] == 0xDA
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return scans + data.count(_SCAN, place)


def _tile_pixels(img: Image.Image) -> int:
    """What one tile of a TIFF takes; 0 where there are none."""
    tags: Any = getattr(img, "tag_v2", None)
    if img.format != "TIFF" or tags is None:
        return 0
    sides = [tags.get(tag, 0) for tag in (322, 323)]  # TileWidth, TileLength
    return int(sides[0]) * int(sides[1]) if all(isinstance(side, int) for side in sides) else 0
