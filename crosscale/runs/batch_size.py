"""`train.batch_size: auto`: the largest batch whose training step fits into the devices' memory."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crosscale.cluster.hosts import from_first, is_first
from crosscale.engine.memory import free_bytes, program_bytes
from crosscale.engine.run_folder import RECIPE
from crosscale.engine.settings import AUTO, ScheduleSettings
from crosscale.engine.sharding import split_parameters
from crosscale.errors import RequestError
from crosscale.recipe import Recipe, load
from crosscale.runs.experiment import Experiment, Splits, build, open_splits
from crosscale.runs.state import abstract_state, compiled_step
from crosscale.runtime import tell

SHARE = 0.9
"""What a step may take of the free memory: the allocator wastes some, and validation and report need a little."""
FIRST = 8
"""Pictures for each device that are tried first."""


def with_batch_size(
    recipe: Recipe, splits: Splits | None = None, *, folder: Path | None = None, without_data: bool = False
) -> tuple[Recipe, Splits | None]:
    """The recipe with a number in place of `auto`, and its data where that had to be opened.

    Standard error names each size that is tried. Where several processes train together, the first one's memory
    decides for all.

    Args:
      splits: the recipe's data, where it has been opened.
      folder: of a run that goes on: its own size is kept.
      without_data: see `build`.

    Raises:
      RequestError: the recipe cannot be run, or not even the smallest batch fits.
    """
    if recipe.train.batch_size != AUTO:
        return recipe, splits
    stored = None if folder is None else folder / RECIPE
    if stored is not None and stored.is_file():
        return _sized(recipe, load(stored).train.images_per_step), splits
    splits = splits or open_splits(recipe, without_data=without_data)
    # The schedule has no part in the memory, and may ask for a batch of another size.
    plain = replace(recipe, schedule=ScheduleSettings("constant", warmup_epochs=0))
    unit = jax.device_count() * recipe.optimizer.accumulate
    experiment = build(_sized(plain, unit), splits=splits, without_data=without_data)
    free = int(from_first(str(free_bytes())))
    needs = step_bytes(experiment)
    sizes = [unit]
    while 2 * sizes[-1] <= len(splits[0]):
        sizes.append(2 * sizes[-1])
    size = largest(sizes, lambda images: _told(images, needs(images), free), SHARE * free)
    if is_first():
        tell(f"train.batch_size: {size}, the largest that fits")
    return _sized(recipe, size), splits


def largest(sizes: list[int], needed: Callable[[int], int | None], limit: float) -> int:
    """The largest of the sizes that needs no more than the limit, found by asking for few of them.

    Two small ones show how the need grows; the line through them says where to go on.

    Args:
      sizes: rising, each twice the one before.
      needed: bytes for a size; None where it does not fit and the number is unknown.

    Raises:
      RequestError: not even the first fits.
    """
    known: dict[int, int | None] = {}

    def fits(place: int) -> bool:
        if place not in known:
            known[place] = needed(sizes[place])
        found = known[place]
        return found is not None and found <= limit

    low = min(max(0, int(np.searchsorted(sizes, FIRST * jax.device_count()))), len(sizes) - 1)
    high = min(low + 1, len(sizes) - 1)
    place = high
    if high > low and fits(low) and fits(high):
        first, second = float(known[low] or 0), float(known[high] or 0)
        slope = max((second - first) / (sizes[high] - sizes[low]), 1e-9)
        reach = sizes[high] + (limit - second) / slope
        place = int(np.searchsorted(sizes, reach, side="right")) - 1
    while place + 1 < len(sizes) and fits(place) and fits(place + 1):
        place += 1
    while not fits(place):
        if place == 0:
            raise RequestError(
                f"train.batch_size=auto: not even {sizes[0]} pictures fit into the memory; a smaller model or picture, "
                "train.remat=blocks or a larger optimizer.accumulate need less"
            )
        place -= 1
    return sizes[place]


def step_bytes(experiment: Experiment) -> Callable[[int], int | None]:
    """A function: images of a batch -> bytes that its training step needs on each device, by the compiled program's own
    account, including the batch that waits; None where the compiler itself runs out of memory."""
    state, optimizer = abstract_state(experiment)
    layout = split_parameters(state, experiment.mesh)
    step: Any = compiled_step(experiment, optimizer, layout)
    recipe = experiment.recipe
    example = experiment.task.examples(experiment.spec, recipe.augment, recipe.data.decode).blank()
    arrays = {**{name: np.asarray(array) for name, array in example.items()}, "weight": np.zeros((), np.float32)}

    def needed(images: int) -> int | None:
        batch = {name: jax.ShapeDtypeStruct((images, *a.shape), a.dtype) for name, a in arrays.items()}
        waiting = images * sum(array.nbytes for array in arrays.values()) // experiment.mesh.size
        try:
            return program_bytes(step.lower(state, batch).compile()) + waiting
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None

    return needed


def _told(images: int, own: int | None, free: int) -> int | None:
    """The first process's number of bytes, which a line names."""
    found: int | None = json.loads(from_first(json.dumps(own)))
    if is_first():
        need = "more than the compiler has" if found is None else f"{found / 2**20:,.0f} MiB"
        verdict = "fits" if found is not None and found <= SHARE * free else "does not fit"
        tell(f"train.batch_size {images}: {need} of {free / 2**20:,.0f} MiB free on each device: {verdict}")
    return found


def _sized(recipe: Recipe, images: int) -> Recipe:
    return replace(recipe, train=replace(recipe.train, batch_size=images))
