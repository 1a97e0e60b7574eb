"""DICOM pictures by pydicom's own lookup tables and windows; the first of several frames."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from crosscale.data.decode import MAX_PIXELS, BadImage
from crosscale.data.names import DICOM_REASON, reads_dicom

_BEYOND = 1e12  # past every window


def read_dicom(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture as a viewer shows it: (H, W) or (H, W, 3) float32 in 0..1.

    Grey goes through the modality's lookup table or rescaling, then through the first window or VOI lookup table that
    the file names; without one, the least and the largest value are black and white. MONOCHROME1 is turned around, so
    that 1 is white always. Colours are RGB.

    Raises:
      BadImage: pydicom is not installed, the file is damaged or has no pixels, or it is compressed in a way that asks
        for a further package.
    """
    if not reads_dicom():
        raise BadImage(name, DICOM_REASON)
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        dataset = pydicom.dcmread(BytesIO(data))
        if "PixelData" not in dataset and "FloatPixelData" not in dataset and "DoubleFloatPixelData" not in dataset:
            raise BadImage(name, "a DICOM file without pixels")
        if dataset.Rows * dataset.Columns > max_pixels:
            sides = f"{dataset.Columns:,} x {dataset.Rows:,}"
            raise BadImage(name, f"too large: {sides} pixels; the limit is {max_pixels:,} in all")
        array = np.asarray(pixel_array(dataset, index=0))
        kind = str(dataset.PhotometricInterpretation)
        if kind.startswith("PALETTE"):
            array = apply_color_lut(array, dataset)
        if array.ndim == 3:
            return (array / np.iinfo(array.dtype).max).astype(np.float32)
        shown = _windowed(array, dataset)
        return 1 - shown if kind == "MONOCHROME1" else shown
    except BadImage:
        raise
    except Exception as error:  # damaged files make the reader raise anything, also Runtime and Import errors
        raise BadImage(name, f"the DICOM file cannot be read ({error or type(error).__name__})") from None


def dicom_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The same in 8 bits: mode "L" or "RGB". Raises BadImage."""
    return Image.fromarray(np.rint(255 * read_dicom(data, name, max_pixels)).astype(np.uint8))


def _windowed(array: np.ndarray, dataset: Any) -> np.ndarray:
    """(H, W) in 0..1."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing

    values = apply_modality_lut(array, dataset)
    shown = np.asarray(apply_voi_lut(values, dataset, index=0), np.float64)
    if "VOILUTSequence" in dataset and dataset.VOILUTSequence:
        low, high = 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
        low, high = apply_windowing(np.array([-_BEYOND, _BEYOND]), dataset, index=0)  # what it makes black and white
    else:
        low, high = float(shown.min()), float(shown.max())
    return np.clip((shown - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1).astype(np.float32)
