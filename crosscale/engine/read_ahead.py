"""Pictures of any number to results: the host decodes ahead, and the device always has the next batch."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import jax

from crosscale.data.pictures import Picture, is_one_picture
from crosscale.errors import RequestError
from crosscale.tasks.task import Result

_AHEAD = 2  # batches that are decoded before the device asks for them

Loaded = TypeVar("Loaded")
Started = TypeVar("Started")


def checked_pictures(pictures: Any, channels: int, batch_size: int) -> tuple[Iterable[Picture], int]:
    """The pictures, a single one as a list, and the batch size brought up to a multiple of the devices.

    Raises:
      RequestError: `batch_size` is below 1, or `pictures` are none.
    """
    if batch_size < 1:
        raise RequestError(f"batch_size={batch_size}: at least 1")
    if is_one_picture(pictures, channels):
        pictures = [pictures]
    elif isinstance(pictures, Mapping) or not isinstance(pictures, Iterable):
        raise RequestError(f"an object of type {type(pictures).__name__} is neither a picture nor a list of them")
    elif _holds_numbers(pictures):  # each of which would be a picture that cannot be read
        raise RequestError("a list of numbers is neither a picture nor a list of them; give an array (H, W, C)")
    devices = jax.local_device_count()
    return pictures, devices * -(-batch_size // devices)


def _holds_numbers(values: Any) -> bool:
    """Whether it is an array or list of numbers, or a list of such lists."""
    shape = getattr(values, "shape", None)
    if isinstance(shape, tuple):
        return len(shape) < 2 and getattr(getattr(values, "dtype", None), "kind", "f") in "biufc"
    return isinstance(values, list) and bool(values) and all(isinstance(v, (int, float, list)) for v in values)


def read_ahead(
    pictures: Iterable[Picture],
    batch_size: int,
    load: Callable[[int, Picture], Loaded],
    start: Callable[[Sequence[Loaded]], Started],
    read: Callable[[Sequence[Loaded], Started], Iterator[Result]],
) -> Iterator[Result]:
    """Results in the order of the pictures, while the host decodes later batches and the device is given the next one.

    Args:
      load: a picture and its position, in a thread.
      start: gives a batch to the device, and does not wait for it.
      read: waits for what `start` has given.
    """
    numbered = iter(enumerate(pictures))
    # Pillow releases the interpreter while it decodes and resizes, so threads do run at once.
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
    loading: deque[Iterator[Loaded]] = deque()
    running: tuple[Sequence[Loaded], Started] | None = None
    try:
        while True:
            while len(loading) < _AHEAD and (part := list(islice(numbered, batch_size))):
                loading.append(pool.map(load, *zip(*part, strict=True)))
            if not loading:
                break
            loaded = list(loading.popleft())
            before, running = running, (loaded, start(loaded))
            if before is not None:
                yield from read(*before)
        if running is not None:
            yield from read(*running)
    finally:
        pool.shutdown(cancel_futures=True)  # whoever wants no more results does not wait for pictures
