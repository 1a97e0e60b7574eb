"""A picture as a model's input asks for it: 8 bits through Pillow, or all channels at full depth."""

from typing import Any

import numpy as np
from PIL import Image

from crosscale.contracts import InputSpec
from crosscale.data.bands import Bands
from crosscale.data.decode import MAX_PIXELS, BadImage, decode
from crosscale.data.full_depth import is_npy, read_full, read_npy


def read_picture(
    spec: InputSpec,
    image: bytes | np.ndarray | Image.Image | tuple[Any, ...],
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Any:
    """A decoded picture, upright, for the transforms: a Pillow image, or `Bands` where `spec.pixels` is "float32".

    Several pictures (`spec.pictures`) give a tuple; an array of all their channels is taken apart.

    Raises:
      BadImage: it is no picture, or has other channels, or there are more or fewer pictures than the model looks at.
      RequestError: the input has neither 1 nor 3 channels of 8 bits.
    """
    if spec.pictures > 1 or isinstance(image, tuple):
        return _each(spec, image, name, max_pixels)
    if spec.pixels == "uint8":
        return read_eight_bits(image, spec.channels, name, max_pixels=max_pixels)
    found = read_full(image, spec.channels, name, max_pixels=max_pixels)
    # Now, because what fills a picture up afterwards is the mean, which is then 0.
    return Bands((found - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32))


def read_eight_bits(
    image: bytes | np.ndarray | Image.Image, channels: int, name: str, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A picture, also of a `.npy` file, as `decode` gives it. Raises BadImage, RequestError."""
    array = read_npy(image, name, max_pixels) if is_npy(image) else image
    return decode(array, channels, name, max_pixels=max_pixels)


def _each(spec: InputSpec, image: Any, name: str, max_pixels: int) -> tuple[Any, ...]:
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == spec.channels:
        image = tuple(np.split(image, spec.pictures, axis=2))
    count = len(image) if isinstance(image, tuple) else 1
    if count != spec.pictures:
        raise BadImage(name, f"{count} picture{'s' * (count > 1)}, and the model looks at {spec.pictures} together")
    return tuple(read_picture(spec.of_picture(i), part, name, max_pixels=max_pixels) for i, part in enumerate(image))
