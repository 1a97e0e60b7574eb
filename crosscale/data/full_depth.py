"""Files and arrays -> numbers of every channel at the depth that they are stored in: `.npy`, TIFF, PNG, DICOM and what
Pillow reads."""

from importlib.util import find_spec
from io import BytesIO
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from crosscale.data.costly import why_tiles_cost
from crosscale.data.decode import MAX_PIXELS, TIFF, BadImage, decode, is_dicom, open_encoded, orientation, stored_as
from crosscale.data.dicom import read_dicom

NPY = b"\x93NUMPY"
_SIXTEEN = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}  # the upper 8 bits, and Pillow's word for the lower ones
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Pillow's

# A TIFF's PhotometricInterpretation, ExtraSamples and SampleFormat, in its own numbers.
_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE = range(4)
_OTHER_COLOURS = {5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_PREMULTIPLIED, _ALPHA = 1, 2
_UNSIGNED = (1, 4)


def is_npy(data: Any) -> TypeGuard[bytes]:
    """Whether it is the content of a `.npy` file."""
    return isinstance(data, bytes) and data.startswith(NPY)


def is_tiff(data: Any) -> TypeGuard[bytes]:
    """Whether it is the content of a TIFF."""
    return isinstance(data, bytes) and data.startswith(TIFF)


def read_full(
    image: bytes | np.ndarray | Image.Image, channels: int | None, name: str, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """A picture at full depth.

    Numbers of 8 and of 16 bits without a sign are scaled to 0..1; all others are as they are stored. Files that hold
    no more than 8 bits are otherwise (orientation, transparency, palettes) read as `decode` reads them.

    Args:
      image: an encoded file, an array (H, W) or (H, W, C) of any real type, or a Pillow image.
      channels: how many are wanted; None takes those that there are. One is repeated for several, colours are weighed
        as Pillow does for one, and transparent parts of four are laid over white for three.
      name: stands in the error message.
      max_pixels: a picture of more, or of more than three times as many numbers, is refused before it is decoded.

    Returns:
      (H, W, channels), float32.

    Raises:
      BadImage: no picture, damaged, too large, of other channels, or holding numbers that are not finite.
    """
    array = _scaled(read_stored(image, channels, name, max_pixels=max_pixels), name)
    found = array.shape[2]
    if channels is None:
        return array
    if found == 1 and channels > 1:
        array = np.repeat(array, channels, axis=2)
    elif found == 4 and channels in (1, 3) and not (isinstance(image, np.ndarray) or is_npy(image) or is_tiff(image)):
        array = 1 - array[:, :, 3:] * (1 - array[:, :, :3])
        found = 3
    if found == 3 and channels == 1:
        array = (array @ _LUMA)[:, :, None]
    if array.shape[2] != channels:
        raise BadImage(name, f"{found} channels, where {channels} are wanted (data.channels)")
    return np.ascontiguousarray(array, np.float32)


def read_stored(
    image: bytes | np.ndarray | Image.Image, channels: int | None, name: str, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """As `read_full`, but the numbers as they are stored: (H, W, C) of the file's own type and channels.

    Args:
      channels: how many pages of a TIFF, or an alpha channel, are taken for channels; None where nobody says.
    """
    if is_npy(image):
        array = read_npy(image, name, max_pixels)
    elif is_tiff(image):
        array = _read_tiff(image, channels, name, max_pixels)
    elif isinstance(image, np.ndarray):
        array = image
    elif isinstance(image, bytes) and is_dicom(image):
        array = read_dicom(image, name, max_pixels)
    else:
        array = _read_pillow(image, channels, name, max_pixels)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "buif":
        raise BadImage(
            name, f"an array of shape {array.shape} and type {array.dtype} is not a picture; (H, W) or (H, W, C) is"
        )
    if channels not in (None, array.shape[2]) and array.shape[0] == channels:
        raise BadImage(name, f"an array of shape {array.shape} has its channels first; save it as (H, W, C)")
    return array


def read_npy(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The array of a `.npy` file, whose header is looked at before anything is copied. Raises BadImage."""
    stream = BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except Exception as error:  # NumPy reads it as Python's text: damage raises anything
        raise BadImage(name, f"the header of the .npy file is damaged ({error})") from None
    if dtype.hasobject:
        raise BadImage(name, "a .npy file of Python objects, which could run code; save numbers")
    _check_size(name, shape, max_pixels)
    count, start = int(np.prod(shape, dtype=np.int64)), stream.tell()
    if len(data) - start < count * dtype.itemsize:
        raise BadImage(name, "the .npy file is truncated")
    array = np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _check_size(name: str, shape: tuple[int, ...], max_pixels: int) -> None:
    height, width = (*shape, 1, 1)[:2]
    if height * width > max_pixels or int(np.prod(shape, dtype=np.float64)) > 3 * max_pixels:
        sides = " x ".join(f"{side:,}" for side in shape)
        raise BadImage(name, f"too large: {sides} numbers; the limit is {max_pixels:,} pixels of three")


def _read_tiff(data: bytes, channels: int | None, name: str, max_pixels: int) -> np.ndarray:
    if find_spec("tifffile") is None:
        raise BadImage(name, "TIFF at full depth is read where tifffile is installed: pip install 'crosscale[tiff]'")
    import tifffile

    try:
        with tifffile.TiffFile(BytesIO(data)) as opened:
            series, page = opened.series[0], opened.pages.first
            _check_size(name, (page.imagelength, page.imagewidth, page.samplesperpixel), max_pixels)
            tile = page.tilelength * page.tilewidth if page.is_tiled else 0
            if reason := why_tiles_cost(tile, page.imagelength * page.imagewidth):
                raise BadImage(name, reason)
            axes, shape = series.axes, series.shape
            _check_size(name, tuple(side for side, axis in zip(shape, axes, strict=True) if axis in "YXSC"), max_pixels)
            if _is_photograph(page, axes, shape, channels) and _pillow_opens(data, name):
                return _read_pillow(data, channels, name, max_pixels)
            return _as_tagged(_channels_last(series.asarray(), axes, channels), page, channels, name)
    except BadImage:
        raise
    except Exception as error:  # a damaged file makes the reader raise anything
        reason = str(error) or type(error).__name__
        if "imagecodecs" in reason:
            reason += "; pip install imagecodecs, or save it uncompressed"
        raise BadImage(name, f"the TIFF cannot be read ({reason})") from None


def is_compressed_tiff(data: bytes) -> bool:
    """Whether a TIFF is compressed, or cannot be read at all."""
    if find_spec("tifffile") is None:
        return False
    import tifffile

    try:
        with tifffile.TiffFile(BytesIO(data)) as opened:
            return any(page.compression != 1 for page in opened.pages)
    except Exception:  # the reader of its pixels says what is wrong
        return True


def _is_photograph(page: Any, axes: str, shape: tuple[int, ...], channels: int | None) -> bool:
    """Whether a TIFF is read as without full depth: up to 8 bits, and no sample or page is a channel of its own."""
    bits, samples = np.max(page.bitspersample), page.samplesperpixel
    if bits > 8 or page.sampleformat not in _UNSIGNED or samples > 4 or _channel_axis(axes, shape, channels) not in "S":
        return False
    return samples in (1, 3) or channels in (1, 3) or (channels is None and page.photometric not in (_BLACK_IS_0, _RGB))


def _pillow_opens(data: bytes, name: str) -> bool:
    try:
        open_encoded(data, name)
    except BadImage:
        return False
    return True


def _as_tagged(array: np.ndarray, page: Any, channels: int | None, name: str) -> np.ndarray:
    """Samples (H, W) or (H, W, C) turned, inverted and coloured as a TIFF's tags say.

    Where 1 or 3 channels are wanted, alpha is laid over white, which makes the result float32 and scaled.
    """
    samples, meaning = page.samplesperpixel, page.photometric
    if meaning == _PALETTE and page.colormap is not None:
        array = np.moveaxis(page.colormap[:, array], 0, -1)
    elif meaning == _WHITE_IS_0 and samples == 1 and array.dtype.kind in ("b", "u"):
        array = ~array if array.dtype.kind == "b" else array.dtype.type(2**page.bitspersample - 1) - array
    turned = page.tags.get(274)
    array = _upright(array, turned.value if turned is not None else 1)
    if channels not in (1, 3):
        return array
    if meaning in _OTHER_COLOURS and samples > 1:
        raise BadImage(
            name, f"a TIFF of {_OTHER_COLOURS[meaning]}, which only Pillow turns into colours; save it as RGB"
        )
    colours = 3 if meaning == _RGB else 1
    if samples != colours + 1:
        return array
    extra = page.extrasamples[0] if page.extrasamples else _ALPHA
    if extra not in (_ALPHA, _PREMULTIPLIED):  # a band of its own, such as infrared
        return array[:, :, :3] if colours == 3 else array
    shown, alpha = np.split(_scaled(array, name), [colours], axis=2)
    return 1 - alpha * (1 - shown) if extra == _ALPHA else shown + 1 - alpha


def _channel_axis(axes: str, shape: tuple[int, ...], channels: int | None) -> str:
    """tifffile's letter for the axis of channels: samples (S) or channels (C), or without these as many pages as
    channels are wanted; "" where there is none."""
    named = [letter for letter in axes if letter in "SC"]
    if not named:
        named = [letter for letter, side in zip(axes, shape, strict=True) if letter not in "YX" and side == channels]
    return named[-1] if named else ""


def _channels_last(array: np.ndarray, axes: str, channels: int | None) -> np.ndarray:
    """(H, W, C) of an array with tifffile's letters for its axes; along any axis beside these, the first is taken."""
    kept = _channel_axis(axes, array.shape, channels)
    for place in reversed(range(len(axes))):
        if axes[place] not in ("Y", "X", kept):
            array = array.take(0, axis=place)
            axes = axes[:place] + axes[place + 1 :]
    return array.transpose([axes.index(letter) for letter in ("Y", "X", *kept)])


def _read_pillow(image: bytes | Image.Image, channels: int | None, name: str, max_pixels: int) -> np.ndarray:
    opened = image if isinstance(image, Image.Image) else open_encoded(image, name)
    stored = stored_as(opened)
    if stored == "LA;16B" or (stored in _SIXTEEN and "transparency" in opened.info):
        raise BadImage(name, "16 bits with transparency; save it without, or with an alpha channel of colours")
    if isinstance(image, bytes) and stored in _SIXTEEN:
        return _sixteen_bit_colours(image, opened, name, max_pixels)
    if opened.mode == "F" or (opened.mode in _GREY[4:] and "transparency" not in opened.info):
        _check_size(name, (opened.height, opened.width), max_pixels)
        return _loaded(opened, name)
    if opened.mode == "RGBA" and channels == 4:
        _check_size(name, (opened.height, opened.width), max_pixels)
        return _loaded(opened, name)
    return np.asarray(decode(image, 1 if opened.mode in _GREY else 3, name, max_pixels=max_pixels))


def _sixteen_bit_colours(data: bytes, opened: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint16 of a PNG, from which Pillow gives one byte of two at a time."""
    _check_size(name, (opened.height, opened.width), max_pixels)
    again: Any = open_encoded(data, name)
    again.tile = [again.tile[0]._replace(args=_SIXTEEN[stored_as(opened)])]
    upper, lower = _loaded(opened, name), _loaded(again, name)
    return upper.astype(np.uint16) << 8 | lower


def _loaded(opened: Image.Image, name: str) -> np.ndarray:
    try:
        turned = orientation(opened)
        array = np.asarray(opened)
    except Exception as error:
        raise BadImage(name, f"the image data is damaged ({error or type(error).__name__})") from None
    if array.dtype == np.int32:  # what Pillow makes of 16 bits in some files
        array = array.astype(np.uint16) if array.size and array.min() >= 0 and array.max() < 65536 else array
    return _upright(array, turned)


def _upright(array: np.ndarray, turned: int) -> np.ndarray:
    """By EXIF's numbers, 1 to 8."""
    if turned in (2, 4, 5, 7):
        array = array[:, ::-1]
    return np.rot90(array, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(turned, 0))


def _scaled(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if array.dtype == np.uint16:
        return array.astype(np.float32) / np.float32(65535)
    found = array.astype(np.float32)
    if not np.isfinite(found).all():
        count = int((~np.isfinite(found)).sum())
        raise BadImage(name, f"{count:,} of its numbers are not finite (NaN or infinite); fill them in")
    return found
