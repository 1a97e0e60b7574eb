"""Dynamic batching: pictures of different requests share a forward, padded to one of a few compiled shapes."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress

import numpy as np

Example = tuple[np.ndarray, ...]  # one array, or several that go together
Waiting = tuple[Example, "asyncio.Future[np.ndarray]"]


class Batcher:
    """Collects single examples into batches and runs them one after another on a thread of their own.

    The queue itself is unbounded: what may enter it is bounded where requests are admitted.
    """

    def __init__(
        self,
        run: Callable[..., np.ndarray],
        *,
        sizes: Sequence[int],
        max_delay: float,
        executor: Executor,
        on_batch: Callable[[int, int, float], None] = lambda real, padded, seconds: None,
    ) -> None:
        """
        Args:
          run: a batch (n, ...) of each array of the examples -> (n, ...) rows of results, n one of `sizes`.
          sizes: the batch sizes that are compiled, rising.
          max_delay: seconds that an example waits for company.
          executor: where `run` runs.
          on_batch: told after each batch: real examples, its padded size, seconds.
        """
        self._run = run
        self._sizes = tuple(sizes)
        self._max_delay = max_delay
        self._executor = executor
        self._on_batch = on_batch
        self._queue: asyncio.Queue[Waiting | None] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Finishes what was submitted, then stops."""
        if self._worker is not None:
            self._queue.put_nowait(None)
            await self._worker
            self._worker = None

    def submit(self, *example: np.ndarray) -> "asyncio.Future[np.ndarray]":
        """The row of results of one example, its arrays. Cancelling the future takes the example out of its batch."""
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((example, future))
        return future

    async def _work(self) -> None:
        ended = False
        while not ended:
            first = await self._queue.get()
            if first is None:
                return
            batch, ended = await self._gather(first)
            shapes: dict[tuple[tuple[int, ...], ...], list[Waiting]] = {}
            for example, future in batch:
                if not future.done():
                    shapes.setdefault(tuple(part.shape for part in example), []).append((example, future))
            for equal in shapes.values():
                await self._answer(equal)

    async def _gather(self, first: Waiting) -> tuple[list[Waiting], bool]:
        """A batch that begins with `first`, and whether the queue ended with it."""
        batch = [first]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_delay):
                while len(batch) < self._sizes[-1]:
                    item = await self._queue.get()
                    if item is None:
                        return batch, True
                    batch.append(item)
        # What arrived while the delay ran out goes along as well.
        while len(batch) < self._sizes[-1] and not self._queue.empty():
            item = self._queue.get_nowait()
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    async def _answer(self, batch: list[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        size = next(size for size in self._sizes if size >= len(batch))
        stacked = [np.zeros((size, *part.shape), part.dtype) for part in batch[0][0]]
        for row, (example, _) in enumerate(batch):
            for whole, part in zip(stacked, example, strict=True):
                whole[row] = part
        begun = loop.time()
        try:
            results = await loop.run_in_executor(self._executor, self._run, *stacked)
        except Exception as error:  # every example of the batch fails, and the worker lives on
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        self._on_batch(len(batch), size, loop.time() - begun)
        for (_, future), result in zip(batch, results, strict=False):
            if not future.done():
                future.set_result(result)
