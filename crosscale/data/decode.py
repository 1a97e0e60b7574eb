"""Encoded files or arrays -> Pillow images of one channel layout, or a one-line reason why not."""

import errno
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crosscale.errors import RequestError, WorkError

MAX_PIXELS = 178_956_970  # where Pillow itself refuses: 0.5 GiB of decoded RGB

_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


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
      BadImage: the file is missing, a folder, not permitted, or cannot be read.
    """
    try:
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


def decode(image: bytes | np.ndarray, channels: int, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes one picture to mode "L" (`channels=1`) or "RGB" (`channels=3`), upright.

    The EXIF orientation is applied, the first frame of an animation is taken, transparent parts are laid
    over white, and 16-bit grey is scaled by 1/257 (Pillow's own conversion saturates it).

    Args:
      image: an encoded file, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8,
        or (H, W) of uint16.
      name: stands in the error message.
      max_pixels: a picture that declares more is refused before any pixel is decoded.

    Raises:
      BadImage: not an image, empty, damaged, or too large.
      RequestError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise RequestError(f"channels={channels}: image files decode to 1 (grey) or 3 (RGB) channels")
    img = _from_array(image, name) if isinstance(image, np.ndarray) else _open(image, name, max_pixels)
    try:
        img.load()
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
            reason = f"the image data is damaged ({error or type(error).__name__})"
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


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    if not data:
        raise BadImage(name, "the file is empty (0 bytes)")
    try:
        img = Image.open(BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, _declared_size(data), min(max_pixels, MAX_PIXELS)) from None
    except UnidentifiedImageError:
        raise BadImage(name, "not an image in a format that Pillow reads") from None
    except Exception as error:  # a plugin that stumbles over a damaged header may raise anything
        raise BadImage(name, f"the image header is damaged ({error or type(error).__name__})") from None
    if img.width * img.height > max_pixels:
        raise _too_large(name, img.size, max_pixels)
    return img


def _too_large(name: str, size: tuple[int, int] | None, limit: int) -> BadImage:
    found = f"{size[0]:,} x {size[1]:,} = {size[0] * size[1]:,} pixels; " if size else ""
    return BadImage(name, f"too large: {found}the limit is {limit:,} pixels, so scale it down first")


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a picture that `Image.open` refuses to describe."""
    Image.init()
    for factory, accept in Image.OPEN.values():
        try:
            if accept is None or accept(data[:16]) is True:
                size: tuple[int, int] = factory(BytesIO(data), "").size
                return size
        except Exception:  # not this plugin's format
            continue
    return None


def _upright(img: Image.Image) -> Image.Image:
    # Read after load(): Pillow's TIFF reader turns the picture itself and drops the tag.
    try:
        orientation = img.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata around sound pixels
        return img
    # exif_transpose copies even an upright picture.
    return ImageOps.exif_transpose(img) if orientation in range(2, 9) else img


def _to_mode(img: Image.Image, mode: str, name: str) -> Image.Image:
    if img.mode == mode:
        return img
    if img.mode in _SIXTEEN_BIT or img.mode == "I":
        img = _sixteen_to_eight(img, name)
    elif img.mode == "F":
        raise BadImage(name, "floating-point pixels have no fixed range; save it with 8 or 16 bits")
    elif img.mode in _WITH_ALPHA or "transparency" in img.info:
        img = img.convert("RGBA")
        white = Image.new("RGBA", img.size, (255, 255, 255, 255))
        white.alpha_composite(img)
        img = white.convert("RGB")
    return img if img.mode == mode else img.convert(mode)


def _sixteen_to_eight(img: Image.Image, name: str) -> Image.Image:
    pixels = np.asarray(img).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise BadImage(name, "32-bit pixels beyond 0..65535 have no fixed range; save it with 8 or 16 bits")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
