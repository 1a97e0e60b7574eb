"""Mean and standard deviation of every channel, measured over a data set's pictures without keeping them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from crosscale.contracts import Pixels, Source
from crosscale.data.full_depth import is_npy, is_tiff, read_full, read_stored
from crosscale.data.reading import read_eight_bits
from crosscale.errors import RequestError, WorkError

SAMPLE = 32  # pictures that say how many channels there are, and of which depth


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of pictures as the model is fed them, before normalisation.

    Attributes:
      channels: of one picture: 1, 3, or with "float32" any number.
      pixels: how they were read, see `InputSpec.pixels`.
      mean: per channel, of pixels scaled to 0..1, or as they are where they have no such scale; of several pictures
        of an example one after another.
      std: likewise; the smallest positive number of float32 where a channel is constant.
      pictures: how many were measured.
      problems: a line for each picture that cannot be used.
    """

    channels: int
    pixels: Pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures: int
    problems: tuple[str, ...]


class _Moments(NamedTuple):
    mean: np.ndarray  # (C,) float64
    variance: np.ndarray
    problem: str | None = None


def measure_statistics(
    source: Source,
    *,
    channels: int | None = None,
    pixels: Pixels | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Statistics:
    """Reads every picture once. Each counts the same, whatever its size: the model sees them all at one.

    Args:
      channels: None takes the largest number among a sample of the pictures.
      pixels: None takes "float32" where one of the sample has more than 8 bits, or neither 1 nor 3 channels.
      progress: told (pictures done, all pictures).

    Raises:
      RequestError: there is no picture, or none that can be used.
    """
    found = _layout(source)
    channels = channels or found[0]
    pixels = pixels or ("float32" if channels not in (1, 3) else found[1])
    numbers = channels * int(getattr(source, "pictures", 1))
    mean, spread, count = np.zeros(numbers), np.zeros(numbers), 0
    problems: list[str] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for done, one in enumerate(pool.map(lambda i: _moments(source, i, channels, pixels), range(len(source))), 1):
            progress(done, len(source))
            if one.problem is not None:
                problems.append(one.problem)
                continue
            count += 1  # Chan's update, which loses nothing to large means
            delta = one.mean - mean
            mean = mean + delta / count
            spread = spread + one.variance + delta * (one.mean - mean)
    if not count:
        raise RequestError(f"no picture can be measured; the first: {problems[0] if problems else 'there is none'}")
    std = np.maximum(np.sqrt(spread / count), np.finfo(np.float32).tiny)
    return Statistics(channels, pixels, tuple(mean.tolist()), tuple(std.tolist()), count, tuple(problems))


def _layout(source: Source) -> tuple[int, Pixels]:
    """Channels and depth of the pictures, by a sample of them."""
    channels, deep = 1, False
    for index in np.unique(np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).astype(int)):
        try:
            record = source[int(index)]
            image = record.image[0] if isinstance(record.image, tuple) else record.image
            array = read_stored(image, None, record.id)
        except WorkError:  # reported when it is measured
            continue
        found = array.shape[2]
        plain = not (isinstance(image, np.ndarray) or is_npy(image) or is_tiff(image))
        if found == 4 and plain:  # transparency, which is laid over white
            found = 3
        channels, deep = max(channels, found), deep or array.dtype not in (np.uint8, np.bool_)
    return channels, "float32" if deep else "uint8"


def _moments(source: Source, index: int, channels: int, pixels: Pixels) -> _Moments:
    try:
        record = source[index]
        images = record.image if isinstance(record.image, tuple) else (record.image,)
        parts = [_pixels(image, record.id, channels, pixels) for image in images]
    except WorkError as error:
        return _Moments(np.zeros(0), np.zeros(0), str(error))
    return _Moments(np.concatenate([part.mean(0) for part in parts]), np.concatenate([part.var(0) for part in parts]))


def _pixels(image: Any, name: str, channels: int, pixels: Pixels) -> np.ndarray:
    """(pixels, channels) float64. Raises BadImage."""
    if pixels == "uint8":
        return np.asarray(read_eight_bits(image, channels, name)).reshape(-1, channels).astype(np.float64) / 255
    return read_full(image, channels, name).reshape(-1, channels).astype(np.float64)
