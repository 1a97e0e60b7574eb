"""What counts as one picture, in whatever form a caller has it."""

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from crosscale.data.decode import BadImage, open_image
from crosscale.errors import RequestError

# A path, an encoded file's bytes, an open file (anything with read()), a Pillow image, or an array: NumPy's, JAX's or a
# PyTorch tensor. As Any, because the last two libraries are not imported here.
Picture: TypeAlias = Any

SEPARATOR = "::"  # between the paths of several pictures of one example
_CHANNELS = (1, 3, 4)


def is_one_picture(value: Any, channels: int) -> bool:
    """Whether `value` is one picture and not a collection of them.

    An array is one where it is (H, W) or ends in 1, 3 or 4 channels or the model's number, and a PyTorch tensor also
    where it begins with 1, 3 or 4. Arrays of other shapes are collections, of (H, W) pictures or of (H, W, C) ones.

    Args:
      channels: that the model takes.

    Raises:
      RequestError: an array that can be read either way.
    """
    if isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or hasattr(value, "read"):
        return True
    shape = getattr(value, "shape", None)
    if not hasattr(value, "__array__") or not isinstance(shape, tuple):
        return False
    if len(shape) == 2 or (len(shape) == 3 and (shape[2] in (*_CHANNELS, channels) or _channels_first(value))):
        return True
    if len(shape) == 3 and channels == 3 and shape[0] in _CHANNELS[1:]:
        raise RequestError(
            f"an array of shape {tuple(shape)} is one picture with its channels first, or {shape[0]} grey ones; give "
            "one picture as (H, W, C), several as a list"
        )
    return False


def picture_name(picture: Picture, otherwise: str) -> str:
    """The file that a picture comes from, or `otherwise`; for several pictures, all names."""
    if isinstance(picture, tuple):
        return SEPARATOR.join(picture_name(part, otherwise) for part in picture)
    if isinstance(picture, (str, os.PathLike)):
        return os.fsdecode(os.fspath(picture))
    name = None if isinstance(picture, Image.Image) else getattr(picture, "name", None)
    return name if isinstance(name, str) and hasattr(picture, "read") else otherwise


def decodable(picture: Picture, name: str) -> Any:
    """The picture in a form that `read_picture` takes; for several (a tuple, or paths with "::" between), a tuple.

    Raises:
      BadImage: it cannot be read, or is nothing that can be a picture.
    """
    if isinstance(picture, tuple):
        return tuple(decodable(part, name) for part in picture)
    if isinstance(picture, (str, os.PathLike)):
        return open_pictures(Path(), os.fspath(picture))
    if isinstance(picture, (bytes, np.ndarray, Image.Image)):
        return picture
    if isinstance(picture, (bytearray, memoryview)):
        return bytes(picture)
    if hasattr(picture, "read"):
        return _read(picture, name)
    if not hasattr(picture, "__array__"):
        raise BadImage(
            name,
            f"an object of type {type(picture).__name__} is not a picture; a path, the bytes of a file, an open file, "
            "a Pillow image and an array are",
        )
    try:
        array = np.asarray(picture.cpu() if hasattr(picture, "cpu") else picture)  # a tensor may lie on a GPU
    except Exception as error:  # a deleted JAX array, a tensor that asks for gradients
        raise BadImage(name, f"cannot be read as an array ({error or type(error).__name__})") from None
    return np.moveaxis(array, 0, 2) if _channels_first(picture) else array


def open_pictures(root: Path, paths: str) -> Any:
    """The bytes of a picture, or a tuple of those of several. Raises BadImage.

    Args:
      root: what the paths are relative to.
      paths: of one picture, or of several with "::" between them.
    """
    if SEPARATOR not in paths or os.path.exists(root / paths):
        return open_image(root / paths)
    return tuple(open_image(root / path) for path in paths.split(SEPARATOR))


def _channels_first(value: Any) -> bool:
    """Whether it is a PyTorch tensor in PyTorch's order (C, H, W)."""
    torch = type(value).__module__.partition(".")[0] == "torch"
    return torch and len(value.shape) == 3 and value.shape[0] in _CHANNELS and value.shape[2] not in _CHANNELS


def _read(file: Any, name: str) -> bytes:
    try:
        data = file.read()
        if not data and file.seekable():  # just written to, or read before: its position is the end
            file.seek(0)
            data = file.read()
    except (OSError, ValueError, AttributeError) as error:  # ValueError: it is closed, or opened as text
        raise BadImage(name, f"cannot be read ({error or type(error).__name__})") from None
    if not isinstance(data, (bytes, bytearray)):
        raise BadImage(name, "the file is open as text; open it with mode 'rb'")
    return bytes(data)
