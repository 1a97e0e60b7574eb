"""A picture as a model's input asks for it: 8 bits through Pillow, or all channels at full depth."""

from typing import Any

import numpy as np
from PIL import Image

from crosscale.contracts import InputSpec
from crosscale.data.bands import Bands
from crosscale.data.decode import MAX_PIXELS, decode
from crosscale.data.full_depth import is_npy, read_full, read_npy


def read_picture(
    spec: InputSpec, image: bytes | np.ndarray | Image.Image, name: str, *, max_pixels: int = MAX_PIXELS
) -> Any:
    """A decoded picture, upright, for the transforms: a Pillow image, or `Bands` where `spec.pixels` is "float32".

    Raises:
      BadImage: it is none, or has other channels.
      RequestError: the input has neither 1 nor 3 channels of 8 bits.
    """
    if spec.pixels == "uint8":
        array = read_npy(image, name, max_pixels) if is_npy(image) else image
        return decode(array, spec.channels, name, max_pixels=max_pixels)
    found = read_full(image, spec.channels, name, max_pixels=max_pixels)
    # Now, because what fills a picture up afterwards is the mean, which is then 0.
    return Bands((found - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32))
