"""Source -> batches, by Grain: random access throughout, so that a step number is the whole state.

The order, the augmentation and the batches depend on the seed and the step alone: not on the number of
workers or threads, and hosts together see what one host would.
"""

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from crosscale.contracts import Batch, Examples, Record, ShapedExamples, SizedExamples, Source
from crosscale.data.decode import reuse_pillow_blocks
from crosscale.data.loader_process import init_worker
from crosscale.data.order import training_order
from crosscale.data.watched import Watched
from crosscale.errors import RequestError, WorkError

OnBadImage = Literal["error", "skip"]

PADDING_INDEX = -1


@dataclass(frozen=True)
class _Example:
    arrays: dict[str, np.ndarray]
    weight: float
    index: int
    error: str | None


class _Loaded(NamedTuple):
    """One step's batch, and what was wrong with its pictures: a line each."""

    batch: Batch
    errors: tuple[str, ...]


class BatchIterator(Iterator[Batch]):
    """Batches in order. Close it, or use it as a context manager, to stop its threads and processes.

    Attributes:
      errors: one line for each picture of the latest batch that was skipped.
    """

    def __init__(self, iterator: Any, on_bad_image: OnBadImage) -> None:
        self._running = [iterator]
        # Also at exit: Grain's own clean-up may come when its modules are gone already.
        self._stop = weakref.finalize(self, _close_all, self._running)
        self._on_bad_image = on_bad_image
        self.errors: tuple[str, ...] = ()

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Batch:
        if not self._running:
            raise StopIteration
        loaded: _Loaded = next(self._running[0])
        if loaded.errors and self._on_bad_image == "error":
            self.close()
            raise WorkError(f"{loaded.errors[0]}; to train without such files, set on_bad_image: skip")
        self.errors = loaded.errors
        # Batches of worker processes lie in shared memory, which would stay until each one is released.
        arrays, weight, index = loaded.batch
        return Batch({name: _copied(part) for name, part in arrays.items()}, _copied(weight), _copied(index))

    def close(self) -> None:
        """Stops the workers; further use ends the iteration."""
        self._stop()

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _copied(part: Any) -> np.ndarray:
    return part if type(part) is np.ndarray else np.array(part)


def _close_all(iterators: list[Any]) -> None:
    while iterators:
        iterators.pop().close()


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """How many whole batches an epoch has; what is left over is dropped, a different part in each epoch.

    Raises:
      RequestError: `batch_size` is not positive or larger than the source.
    """
    if batch_size < 1:
        raise RequestError(f"batch_size={batch_size}: must be positive")
    if len(source) < batch_size:
        raise RequestError(
            f"batch_size={batch_size}: the training data has only {len(source)} images, and a batch cannot be larger"
        )
    return len(source) // batch_size


def train_batches(
    source: Source,
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    epochs: int | None = None,
    repeats: int = 1,
    groups: np.ndarray | None = None,
    workers: int = 0,
    threads: int | None = None,
    host_index: int = 0,
    host_count: int = 1,
    on_bad_image: OnBadImage = "error",
) -> BatchIterator:
    """Shuffled, augmented batches from step `start_step` on; for `ShapedExamples`, those of one shape together.

    Args:
      source: its optional attribute `weights` (N,) says how much each example counts; the batches' have a mean of 1.
      examples: what becomes of each record.
      batch_size: global; of its rows, host i gets the i-th batch_size / host_count, one after another.
      seed: 0..2**32-1, of the order and the augmentation.
      epochs: after how many the iterator ends; None never ends.
      repeats: how often an example comes, one after another (repeated augmentation).
      groups: (N,) whole numbers; examples of each come equally often. None for every example equally often.
      workers: processes that load; 0 loads in threads of this process. A script that uses workers needs
        the `if __name__ == "__main__":` guard, because they are spawned.
      threads: per process; None is up to 8, or 1 where there are workers.
      on_bad_image: what a picture that does not decode does. "error": `next` raises `WorkError`, naming
        it. "skip": its arrays are blank and its weight is 0.

    Raises:
      RequestError: sizes that do not fit.
    """
    steps = steps_per_epoch(source, batch_size)
    local = _local_size(batch_size, host_index, host_count)
    if not 0 <= seed < 2**32:
        raise RequestError(f"seed={seed}: must lie in 0..2**32-1")
    if start_step < 0 or (epochs is not None and epochs < 1):
        raise RequestError(f"start_step={start_step}, epochs={epochs}: a step is 0 or more, epochs 1 or more")
    shapes = _shapes(source, examples)
    if shapes is not None and (repeats != 1 or groups is not None):
        raise RequestError("examples of several shapes come once each: neither repeats nor groups go with them")
    load = _TrainLoader(source, examples, _weights(source), shapes)
    how: dict[str, Any] = {"epochs": epochs, "seed": seed, "repeats": repeats, "groups": groups}
    how |= {"batch_size": batch_size, "shapes": shapes}
    dataset = training_order(source, per_epoch=steps * batch_size, **how)
    # The augmentation is keyed by the global position, so it has to stand before the hosts part.
    dataset = _batched(dataset.random_map(load), batch_size, host_index, local)[start_step:]
    return BatchIterator(_start(dataset, workers, threads, len(dataset)), _checked(on_bad_image))


def eval_batches(
    source: Source,
    examples: Examples,
    *,
    batch_size: int,
    workers: int = 0,
    threads: int | None = None,
    host_index: int = 0,
    host_count: int = 1,
    on_bad_image: OnBadImage = "error",
) -> BatchIterator:
    """Every example exactly once, in order, as validation sees it; for `SizedExamples`, those of one key together.

    All hosts yield the same number of batches; what fills up the last one (of a key) has weight 0 and index -1. For
    the arguments see `train_batches`.
    """
    if batch_size < 1:
        raise RequestError(f"batch_size={batch_size}: must be positive")
    local = _local_size(batch_size, host_index, host_count)
    plan = _plan(source, examples, batch_size)
    import grain

    load = _EvalLoader(source, examples, plan)
    dataset = _batched(grain.MapDataset.range(len(plan.order)).map(load), batch_size, host_index, local)
    return BatchIterator(_start(dataset, workers, threads, len(plan.order) // batch_size), _checked(on_bad_image))


@dataclass(frozen=True)
class _Plan:
    """Which example stands at which place of a pass.

    Attributes:
      order: (places,) position in the source, -1 for padding; whole batches.
      keys: (places,) the key of each for `SizedExamples`; else none.
    """

    order: np.ndarray
    keys: Sequence[Any] = ()

    def blank(self, examples: Examples, place: int) -> dict[str, np.ndarray]:
        """The example at a place that does not count."""
        if not self.keys or not isinstance(examples, SizedExamples):
            return examples.blank()
        return examples.blank(self.keys[place])


def _plan(source: Any, examples: Examples, batch_size: int) -> _Plan:
    count = len(source)
    if not isinstance(examples, SizedExamples):
        return _Plan(np.concatenate([np.arange(count), np.full(-count % batch_size, PADDING_INDEX)]))
    groups: dict[Any, list[int]] = {}
    broken = []
    for index in range(count):
        try:
            groups.setdefault(examples.shape_key(source.size(index)), []).append(index)
        except WorkError:  # what is wrong is reported when it is loaded
            broken.append(index)
    if broken:
        groups.setdefault(min(groups, default=examples.shape_key((1, 1))), []).extend(broken)
    order: list[int] = []
    keys: list[Any] = []
    for key in sorted(groups):
        padded = [*groups[key], *[PADDING_INDEX] * (-len(groups[key]) % batch_size)]
        order += padded
        keys += [key] * len(padded)
    return _Plan(np.array(order, np.int64), keys)


def _shapes(source: Any, examples: Examples) -> np.ndarray | None:
    """(N,) which of the training shapes each example has; None where all have one."""
    if not isinstance(examples, ShapedExamples) or len(examples.train_shapes) < 2:
        return None
    found = np.zeros(len(source), np.int64)
    for index in range(len(source)):
        try:
            found[index] = examples.train_shape(source.size(index))
        except WorkError:  # what is wrong is reported when it is loaded
            continue
    return found


@dataclass(frozen=True)
class _TrainLoader:
    source: Source
    examples: Examples
    weights: np.ndarray | None
    shapes: np.ndarray | None = None

    def __call__(self, index: int, rng: np.random.Generator) -> _Example:
        loaded = _load(self.source, index, partial(self._blank, index), lambda record: self.examples.train(record, rng))
        if self.weights is None or loaded.error is not None:
            return loaded
        return replace(loaded, weight=float(self.weights[index]))

    def _blank(self, index: int) -> dict[str, np.ndarray]:
        if self.shapes is None or not isinstance(self.examples, ShapedExamples):
            return self.examples.blank()
        return self.examples.train_blank(int(self.shapes[index]))


def _weights(source: Any) -> np.ndarray | None:
    """How much each example counts, as the source says, with a mean of 1; None where it says nothing."""
    weights = getattr(source, "weights", None)
    return None if weights is None else weights / weights.mean()


@dataclass(frozen=True)
class _EvalLoader:
    source: Source
    examples: Examples
    plan: _Plan

    def __call__(self, place: int) -> _Example:
        index = int(self.plan.order[place])
        blank = partial(self.plan.blank, self.examples, place)
        if index == PADDING_INDEX:
            return _Example(blank(), 0.0, PADDING_INDEX, None)
        return _load(self.source, index, blank, self.examples.validation)


@dataclass(frozen=True)
class _Rows:
    """Step -> the rows of its batch that one host loads."""

    examples: Any
    batch_size: int
    first: int
    count: int

    def __call__(self, step: int) -> _Loaded:
        start = step * self.batch_size + self.first
        return _stack([self.examples[position] for position in range(start, start + self.count)])


def _batched(examples: Any, batch_size: int, host_index: int, local: int) -> Any:
    """A MapDataset of a host's part of each whole batch of the MapDataset `examples`."""
    import grain

    rows = _Rows(examples, batch_size, host_index * local, local)
    return grain.MapDataset.range(len(examples) // batch_size).map(rows)


def _load(
    source: Source,
    index: int,
    blank: Callable[[], dict[str, np.ndarray]],
    prepare: Callable[[Record], dict[str, np.ndarray]],
) -> _Example:
    try:
        return _Example(prepare(source[index]), 1.0, index, None)
    # Errors travel as data: the consumer meets them at their step, whichever worker read ahead.
    except WorkError as error:
        return _Example(blank(), 0.0, index, str(error))


def _stack(examples: Sequence[_Example]) -> _Loaded:
    batch = Batch(
        arrays={name: np.stack([example.arrays[name] for example in examples]) for name in examples[0].arrays},
        weight=np.array([example.weight for example in examples], np.float32),
        index=np.array([example.index for example in examples], np.int64),
    )
    return _Loaded(batch, tuple(example.error for example in examples if example.error is not None))


def _local_size(batch_size: int, host_index: int, host_count: int) -> int:
    if host_count < 1 or not 0 <= host_index < host_count:
        raise RequestError(f"host_index={host_index} of host_count={host_count}: must lie in 0..host_count-1")
    if batch_size % host_count:
        raise RequestError(
            f"batch_size={batch_size}: the global batch is shared by {host_count} hosts "
            "and must be a multiple of their number"
        )
    return batch_size // host_count


def _checked(on_bad_image: str) -> OnBadImage:
    if on_bad_image == "error":
        return "error"
    if on_bad_image == "skip":
        return "skip"
    raise RequestError(f"on_bad_image={on_bad_image!r}: error or skip")


def _start(dataset: Any, workers: int, threads: int | None, steps: int) -> Any:
    """A running Grain iterator over a MapDataset of batches."""
    if workers < 0 or (threads is not None and threads < 0):
        raise RequestError(f"workers={workers}, threads={threads}: must not be negative")
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads its own absl flags, which this program never parses
        flags.FLAGS.mark_as_parsed()
    reuse_pillow_blocks()
    if threads is None:
        threads = 1 if workers else min(os.cpu_count() or 1, 8)
    # An element is a whole batch: read no further ahead than the threads can work.
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    workers = min(workers, steps)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(options, worker_init_fn=partial(init_worker, parent=os.getpid()))
        return Watched(iter(dataset))
    return iter(dataset)
