"""The order in which training visits the examples, as a function of the position alone.

A position counts the examples of the whole run, over all hosts; its example follows from the seed, so that a run
resumes anywhere and any number of hosts share one order.
"""

import sys
from functools import lru_cache
from typing import Any

import numpy as np

# Examples among which a blocked order shuffles; also about what a source of blocks keeps in memory.
WINDOW = 4096


def training_order(source: Any, *, per_epoch: int, epochs: int | None, seed: int, repeats: int) -> Any:
    """A Grain MapDataset of example indices, of which each epoch takes the first `per_epoch`.

    Args:
      source: its optional attribute `blocks` (see `ParquetShards`) asks for an order that reads each block once.
      repeats: how often each chosen example comes, one after another (repeated augmentation).
    """
    import grain

    blocks = getattr(source, "blocks", None)
    if repeats == 1 and blocks is None:
        dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle()
        # Cut after the shuffle, so that each epoch leaves out other examples.
        return dataset[:per_epoch].repeat(epochs)
    order = EpochOrder(len(source), per_epoch, seed, repeats, blocks)
    stop = sys.maxsize if epochs is None else per_epoch * epochs
    return grain.MapDataset.range(stop).map(order).seed(seed)


class EpochOrder:
    """Position -> example index, with each example repeated, or block after block.

    Repeated augmentation (Hoffer et al., 2020; as DeiT samples it): an epoch is a shuffle in which every example
    comes `repeats` times in a row, cut to the usual length, so that it holds 1 / repeats of the examples.

    A blocked order shuffles the blocks, then the examples inside windows of about `WINDOW`.
    """

    def __init__(self, size: int, per_epoch: int, seed: int, repeats: int, blocks: np.ndarray | None) -> None:
        self.size = size
        self.per_epoch = per_epoch
        self.seed = seed
        self.repeats = repeats
        self.blocks = blocks
        self._prepare()

    def _prepare(self) -> None:
        # Of two epochs at a time: read-ahead crosses the border.
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_shuffled"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self.per_epoch)
        return int(self._shuffled(epoch)[place // self.repeats])

    def _shuffle(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        if self.blocks is None:
            return rng.permutation(self.size)
        starts, ends = self.blocks[:-1], self.blocks[1:]
        order = rng.permutation(len(starts))
        runs = [np.arange(starts[block], ends[block]) for block in order]
        visited = np.concatenate(runs)
        windows = [rng.permutation(visited[begin : begin + WINDOW]) for begin in range(0, len(visited), WINDOW)]
        return np.concatenate(windows)
