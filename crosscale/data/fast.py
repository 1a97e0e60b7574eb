"""The quick, inexact training path: JPEGs decoded in part or smaller, OpenCV's resize and affine transforms.

For training only, and only where a recipe asks for it: the pixels differ from Pillow's as far as resampling filters
differ (the benchmark of `crosscale bench --mode data` states by how much). The crops, flips, operations and
strengths are drawn as on the exact path.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from crosscale.contracts import InputSpec, Record
from crosscale.data.augment import Augment
from crosscale.data.costly import has_too_many_scans
from crosscale.data.crop_decode import LARGEST_SHARE, decode_part
from crosscale.data.decode import MAX_PIXELS, decode, orientation
from crosscale.data.transforms import FILTERS, Operations, finish, operations, random_crop_box, to_array
from crosscale.errors import RequestError

_METADATA = (b"Exif\x00\x00", b"http://ns.adobe.com/xap/")  # what can turn a JPEG; anywhere before its pixels

Box = tuple[int, int, int, int]  # top, left, height, width


def fast_train_transform(spec: InputSpec, augment: Augment, *, parts: bool = True) -> "FastTransform":
    """Like `train_transform`, but from a record, and quicker.

    Args:
      parts: whether a crop is decoded alone where `crop_decode` can; the pixels are the same either way.

    Raises:
      RequestError: OpenCV or simplejpeg is not installed.
    """
    missing = [name for name in ("cv2", "simplejpeg") if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"data.decode=fast needs {' and '.join(missing)}, not installed: pip install 'crosscale[fast-data]'"
        )
    return FastTransform(spec, augment, operations(spec, augment, affine=warp_affine), parts)


@dataclass(frozen=True)
class FastTransform:
    """Record and NumPy generator -> (H, W, C) uint8. Picklable."""

    spec: InputSpec
    augment: Augment
    operations: Operations | None
    parts: bool = True

    def __call__(self, record: Record, rng: np.random.Generator) -> np.ndarray:
        """Raises BadImage."""
        pixels = _resized(self._cropped(record, rng), self.spec.size)
        # One round trip through Pillow for everything that Pillow does as quickly.
        return finish(Image.fromarray(pixels), self.augment, self.operations, rng)

    def _cropped(self, record: Record, rng: np.random.Generator) -> np.ndarray:
        data = record.image
        header = _plain_header(data) if isinstance(data, bytes) and self.spec.channels == 3 else None
        if isinstance(data, bytes) and header is not None:
            box = random_crop_box((header[1], header[0]), self.augment.scale, self.augment.ratio, rng)
            return self._decoded(data, record.id, header, box)
        whole = to_array(decode(data, self.spec.channels, record.id))
        size = (whole.shape[1], whole.shape[0])
        return _cut(whole, random_crop_box(size, self.augment.scale, self.augment.ratio, rng))

    def _decoded(self, data: bytes, name: str, size: tuple[int, int], box: Box) -> np.ndarray:
        """The pixels of `box` of a JPEG of `size`, or as many fewer as its decoder can halve them to."""
        import simplejpeg  # type: ignore[import-untyped]

        height, width = size
        # DCT scaling by a power of two, where the crop stays twice as large as what it is resized to: its edges
        # are rounded to whole pixels of the smaller picture, which must stay a small part of one of the result.
        surplus = min(box[2] / self.spec.size[0], box[3] / self.spec.size[1])
        factor = next((step for step in (8, 4, 2) if surplus >= 2 * step), 1)
        if self.parts and factor == 1 and box[2] * box[3] <= LARGEST_SHARE * height * width:
            part = decode_part(data, *box)
            if part is not None:
                return part
        try:
            whole: np.ndarray = simplejpeg.decode_jpeg(
                data, min_height=height // factor, min_width=width // factor, min_factor=1 if factor == 1 else 2
            )
        except ValueError:  # the exact path words the error
            whole = to_array(decode(data, 3, name))
        to_y, to_x = whole.shape[0] / height, whole.shape[1] / width
        return _cut(whole, box if to_y == 1 else _scaled(box, to_y, to_x, whole.shape))


def _cut(whole: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return whole[top : top + height, left : left + width]


def _plain_header(data: bytes) -> tuple[int, int] | None:
    """Height and width of an upright colour JPEG; None for all that the exact decoder is for."""
    import simplejpeg

    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colorspace not in ("YCbCr", "Gray", "RGB") or height * width > MAX_PIXELS:
        return None
    if has_too_many_scans(data, height * width) or _turned(data):
        return None
    return int(height), int(width)


def _turned(data: bytes) -> bool:
    if not any(mark in data for mark in _METADATA):
        return False
    try:
        return orientation(Image.open(BytesIO(data))) != 1
    except Exception:  # a damaged header: the exact path decides
        return True


def _scaled(box: Box, to_y: float, to_x: float, shape: tuple[int, ...]) -> Box:
    top, left, height, width = box
    new_top, new_left = int(top * to_y), int(left * to_x)
    return (
        new_top,
        new_left,
        min(max(1, round(height * to_y)), shape[0] - new_top),
        min(max(1, round(width * to_x)), shape[1] - new_left),
    )


def _resized(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    cv2 = _cv2()
    shrinks = part.shape[0] >= size[0] and part.shape[1] >= size[1]
    # Area averages over what shrinks (no aliasing); cubic is for what grows.
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized: np.ndarray = cv2.resize(np.ascontiguousarray(part), (size[1], size[0]), interpolation=method)
    return resized


def warp_affine(img: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling, fill: Any) -> Image.Image:
    """Pillow's `transform(AFFINE)` by OpenCV: output to input coordinates, whose pixel centres lie at one half."""
    cv2 = _cv2()
    methods = {FILTERS["nearest"]: cv2.INTER_NEAREST, FILTERS["bilinear"]: cv2.INTER_LINEAR}
    a, b, c, d, e, f = matrix
    centred = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])
    warped = cv2.warpAffine(
        np.asarray(img),
        centred,
        img.size,
        flags=methods.get(resample, cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
    return Image.fromarray(warped)


def _cv2() -> Any:
    import cv2

    cv2.setNumThreads(0)  # the loader has threads of its own
    return cv2
