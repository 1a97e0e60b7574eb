"""Encoded files or arrays -> Pillow images of one channel layout, or a one-line reason why not."""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from crosscale.data.costly import Pieces, has_too_many_profiles, why_too_costly
from crosscale.data.names import advice_on_picture, reads_heif
from crosscale.data.netpbm import is_read_one_by_one, read_netpbm
from crosscale.errors import RequestError, WorkError

log = logging.getLogger("crosscale.data")

MAX_PIXELS = 178_956_970  # where Pillow itself refuses: 0.5 GiB of decoded RGB

_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_FOREIGN = ("EPS", "WMF")
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two of more than 4 GB
_BAND = 1 << 20  # pixels that are composed or scaled at once: whole, they would take many times the room
_WITHOUT_ALPHA = ("1", "L", "RGB", *_SIXTEEN_BIT)
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # grey of 2 or 4 bits, as Pillow spreads it over 0..255


# Cameras and editors write profiles and notes of several MB into PNGs, which Pillow takes for an attack from 1 MiB on.
_MOST_TEXT = 16 << 20
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MOST_TEXT


def reuse_pillow_blocks() -> None:
    """Lets Pillow reuse the memory of pictures that are gone, instead of asking the system for new pages each time."""
    Image.core.set_blocks_max(16)  # type: ignore[attr-defined]


class BadImage(WorkError):  # noqa: N818
    """One picture that cannot be used.

    Attributes:
      name: the file or record it came from.
      reason: what is wrong with it; str() of the error is "name: reason".
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = " ".join(reason.split())
        super().__init__(f"{name}: {self.reason}")

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return BadImage, (self.name, self.reason)


def open_image(path: str | Path) -> bytes:
    """The bytes of one image file.

    Raises:
      BadImage: the file is missing, a folder, a pipe or device, not permitted, or cannot be read.
    """
    try:
        # Asked first: to open a pipe waits for its other end, and a device may never end.
        if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
            raise BadImage(str(path), "a pipe or device, not a file")
        return Path(path).read_bytes()
    except OSError as error:
        reasons = {
            errno.ENOENT: "no such file",
            errno.EACCES: "no permission to read it",
            errno.EPERM: "no permission to read it",
            errno.EISDIR: "a folder, not an image file",
        }
        reason = reasons.get(error.errno or 0, f"cannot be read ({error.strerror or error})")
        raise BadImage(str(path), reason) from None


def decode(
    image: bytes | np.ndarray | Image.Image, channels: int, name: str, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decodes one picture to mode "L" (`channels=1`) or "RGB" (`channels=3`), upright.

    The EXIF orientation is applied, the first frame of an animation is taken, transparent parts are laid
    over white, and 16-bit grey is scaled by 1/257 (Pillow's own conversion saturates it).

    Args:
      image: an encoded file, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or (H, W) of uint16,
        or a Pillow image.
      name: stands in the error message.
      max_pixels: a picture that declares more is refused before any pixel is decoded.

    Raises:
      BadImage: not an image, empty, damaged, or too large.
      RequestError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise RequestError(f"channels={channels}: image files decode to 1 (grey) or 3 (RGB) channels")
    if isinstance(image, np.ndarray):
        img = _from_array(image, name)
    else:
        img = image if isinstance(image, Image.Image) else open_encoded(image, name)
        if img.width * img.height > max_pixels:
            raise _too_large(name, img.size, max_pixels)
        if isinstance(image, bytes) and (reason := why_too_costly(img, image)):
            raise BadImage(name, reason)
    stored = stored_as(img)
    try:
        if isinstance(image, bytes) and is_read_one_by_one(img):
            img = read_netpbm(img, image)
        img.load()
        if "transparency" in img.info and img.mode in _WITHOUT_ALPHA:
            img = _without_colour(img, stored, image if isinstance(image, bytes) else None)
        img = _upright(img)
        return _to_mode(img, "L" if channels == 1 else "RGB", name)
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, EOFError and more
        if isinstance(error, MemoryError):
            reason = f"{img.width} x {img.height} pixels do not fit into memory"
        elif "truncated" in str(error).lower():
            reason = f"the file is truncated ({error})"
        else:
            reason = _damaged("image data", error)
        raise BadImage(name, reason) from None


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if array.size == 0 or not (grey or colour):
        raise BadImage(
            name,
            f"an array of shape {array.shape} and type {array.dtype} is not a picture; "
            "uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is",
        )
    return Image.fromarray(np.ascontiguousarray(array))


def in_pieces(data: bytes, name: str) -> BytesIO:
    """A file for Pillow, which is stopped where its header takes too long. Raises BadImage, also while it is read."""
    if has_too_many_profiles(data):
        raise BadImage(name, "a PNG of many colour profiles; save it anew")
    return Pieces(data, lambda: BadImage(name, "more pieces than a picture's file has; save it anew"))


def open_encoded(data: bytes, name: str) -> Image.Image:
    """A picture with only its header read. Raises BadImage."""
    if not data:
        raise BadImage(name, "the file is empty (0 bytes)")
    if _is_heif(data) and not register_heif():
        raise BadImage(name, "HEIC is read where pillow-heif is installed: pip install 'crosscale[heif]'")
    if is_dicom(data):
        from crosscale.data.dicom import dicom_image  # which needs this file

        return dicom_image(data, name)
    try:
        return Image.open(in_pieces(data, name), formats=_formats())
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, _declared_size(data), MAX_PIXELS) from None
    except UnidentifiedImageError:
        deep = "data.pixels=float32 reads TIFFs of many channels" if data.startswith(TIFF) else advice_on_picture(name)
        raise BadImage(name, f"not an image in a format that Pillow reads{deep and f'; {deep}'}") from None
    except Exception as error:  # a plugin that stumbles over a damaged header may raise anything
        raise BadImage(name, _damaged("image header", error)) from None


def _damaged(part: str, error: Exception) -> str:
    if "MAX_TEXT_" in str(error):  # Pillow names its limit, not what the file holds
        return f"holds more than {_MOST_TEXT >> 20} MB of text or profiles beside the pixels; save it without them"
    return f"the {part} is damaged ({error or type(error).__name__})"


def _formats() -> list[str]:
    """What Pillow reads itself; PostScript and Windows metafiles it hands to other programs."""
    Image.init()
    return [name for name in Image.ID if name not in _FOREIGN]


def is_dicom(data: bytes) -> bool:
    """Whether it is the content of a DICOM file."""
    return data[128:132] == b"DICM"


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


@cache
def register_heif() -> bool:
    """Lets Pillow read HEIC where the optional pillow-heif is installed; whether it is."""
    if not reads_heif():
        return False
    import pillow_heif  # type: ignore[import-not-found]

    pillow_heif.register_heif_opener()
    return True


def _too_large(name: str, size: tuple[int, int] | None, limit: int) -> BadImage:
    found = f"{size[0]:,} x {size[1]:,} = {size[0] * size[1]:,} pixels; " if size else ""
    return BadImage(name, f"too large: {found}the limit is {limit:,} pixels, so scale it down first")


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a picture that `Image.open` refuses to describe."""
    Image.init()
    for factory, accept in (Image.OPEN[name] for name in _formats()):
        try:
            if accept is None or accept(data[:16]) is True:
                size: tuple[int, int] = factory(BytesIO(data), "").size
                return size
        except Exception:  # not this plugin's format
            continue
    return None


def orientation(img: Image.Image) -> int:
    """The stored picture's orientation, 1 to 8, by its EXIF or XMP; 1, upright, where these say nothing or nonsense."""
    try:
        value = img.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata around sound pixels
        return 1
    return int(value) if value in range(2, 9) else 1


def upright_size(image: bytes | Path, name: str) -> tuple[int, int]:
    """Height and width of what `decode` will give, by the header alone. Raises BadImage.

    Args:
      image: an encoded file, or the path of one.
    """
    try:
        if isinstance(image, Path) and not image.is_file():  # a pipe would be waited for; see `open_image`
            raise BadImage(name, "is no file")
        with Image.open(image if isinstance(image, Path) else BytesIO(image), formats=_formats()) as img:
            width, height = img.size
            if img.format == "TIFF":  # whose reader may have turned the size, but not the tags
                width, height = (int(img.tag_v2[tag]) for tag in (256, 257))  # type: ignore[attr-defined]
            return (width, height) if orientation(img) > 4 else (height, width)
    except Exception:  # the other way says what is wrong
        read = open_encoded(open_image(image) if isinstance(image, Path) else image, name)
        return (read.width, read.height) if orientation(read) > 4 else (read.height, read.width)


def _upright(img: Image.Image) -> Image.Image:
    # Asked after load(): Pillow's TIFF reader turns the picture itself and drops the tag. exif_transpose copies even an
    # upright picture.
    return ImageOps.exif_transpose(img) if orientation(img) != 1 else img


def stored_as(img: Image.Image) -> str:
    """The layout of the pixels in a file that is not decoded yet, in Pillow's word ("L;4", "RGB;16B"); else ""."""
    tiles = getattr(img, "tile", None)
    return str(tiles[0].args) if tiles else ""


def _without_colour(img: Image.Image, stored: str, data: bytes | None) -> Image.Image:
    """White in place of the one colour that a PNG without an alpha channel declares transparent (tRNS).

    The colour is given in the file's own bits, which Pillow has scaled by now, or cut to the upper 8 of 16.
    """
    colour, lower = np.asarray(img.info["transparency"]), None
    if stored in _GREY_STEPS:
        colour = colour * _GREY_STEPS[stored]
    elif stored == "RGB;16B":
        if data is None:
            return img
        lower = Image.open(BytesIO(data))
        lower.tile = [lower.tile[0]._replace(args="RGB;16L")]  # the lower 8 bits
    white = 65535 if img.mode in _SIXTEEN_BIT else 255
    result = Image.new("L" if img.mode == "1" else img.mode, img.size)
    for box in _bands(img):
        band = img.crop(box)
        pixels = np.asarray(band)
        if lower is not None:
            pixels = pixels.astype(np.uint16) << 8 | np.asarray(lower.crop(box))
        if img.mode == "RGB":
            hidden = (pixels[:, :, 0] == colour[0]) & (pixels[:, :, 1] == colour[1]) & (pixels[:, :, 2] == colour[2])
        else:
            hidden = pixels == (colour > 0 if img.mode == "1" else colour)
        shown = np.asarray(band.convert(result.mode)).copy()
        shown[hidden] = white
        result.paste(Image.fromarray(shown), box)
    result.info = {key: value for key, value in img.info.items() if key != "transparency"}  # EXIF too
    return result


def _bands(img: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows that together are the picture."""
    rows = max(1, _BAND // img.width)
    for top in range(0, img.height, rows):
        yield 0, top, img.width, min(top + rows, img.height)


def _to_mode(img: Image.Image, mode: str, name: str) -> Image.Image:
    if img.mode == mode:
        return img
    if img.mode in _SIXTEEN_BIT or img.mode == "I":
        img = _sixteen_to_eight(img, name)
    elif img.mode == "F":
        raise BadImage(name, "floating-point pixels have no fixed range; save it with 8 or 16 bits")
    elif img.mode in _WITH_ALPHA or "transparency" in img.info:
        img = _over_white(img)
    return img if img.mode == mode else img.convert(mode)


def _over_white(img: Image.Image) -> Image.Image:
    result = Image.new("RGB", img.size)
    for box in _bands(img):
        band = img.crop(box).convert("RGBA")
        white = Image.new("RGBA", band.size, (255, 255, 255, 255))
        white.alpha_composite(band)
        result.paste(white.convert("RGB"), box)
    return result


_TWELVE_BIT = 4095
_dark: list[str] = []  # the first picture of 16 bits that looks like one of fewer


def _say_dark(name: str, largest: int) -> None:
    if not _dark:
        _dark.append(name)
        bits = max(8, largest.bit_length())
        log.warning(
            "%s: pixels of 16 bits, none above %d, are read as 0..65535 and come out %s; if %d is meant to be white, "
            "save such pictures with 8 bits or scale them (said once)",
            name,
            largest,
            "black" if bits == 8 else "nearly black",
            2**bits - 1,
        )


def _sixteen_to_eight(img: Image.Image, name: str) -> Image.Image:
    pixels = np.asarray(img)
    least, largest = int(pixels.min()), int(pixels.max())
    if least < 0 or largest > 65535:
        raise BadImage(name, "32-bit pixels beyond 0..65535 have no fixed range; save it with 8 or 16 bits")
    if 0 < largest <= _TWELVE_BIT:  # cameras and scanners put 10 and 12 bits into files of 16
        _say_dark(name, largest)
    scaled = np.empty(pixels.shape, np.uint8)
    rows = max(1, _BAND // pixels.shape[1])  # a band at a time: whole, the wider numbers would take many times the room
    for top in range(0, len(pixels), rows):
        scaled[top : top + rows] = (pixels[top : top + rows].astype(np.uint32) + 128) // 257
    return Image.fromarray(scaled)
