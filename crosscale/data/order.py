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


def training_order(
    source: Any,
    *,
    per_epoch: int,
    epochs: int | None,
    seed: int,
    repeats: int,
    groups: np.ndarray | None = None,
    batch_size: int = 1,
    shapes: np.ndarray | None = None,
) -> Any:
    """A Grain MapDataset of example indices, of which each epoch takes the first `per_epoch`.

    Args:
      source: its optional attribute `blocks` (see `ParquetShards`) asks for an order that reads each block once.
      repeats: how often each chosen example comes, one after another (repeated augmentation).
      groups: (N,) whole numbers; see `BalancedOrder`.
      batch_size: of `shapes`.
      shapes: (N,) whole numbers, of which a batch holds one; see `ShapedOrder`. Without repeats and groups.
    """
    import grain

    blocks = getattr(source, "blocks", None)
    if repeats == 1 and blocks is None and groups is None and shapes is None:
        dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle()
        # Cut after the shuffle, so that each epoch leaves out other examples.
        return dataset[:per_epoch].repeat(epochs)
    order: EpochOrder
    if shapes is not None:
        order = ShapedOrder(shapes, batch_size, per_epoch, seed, blocks)
    elif groups is None:
        order = EpochOrder(len(source), per_epoch, seed, repeats, blocks)
    else:
        order = BalancedOrder(groups, per_epoch, seed, repeats)
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
        # Two epochs are kept at a time: read-ahead crosses the border.
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
        return _permuted(np.arange(self.size), self.blocks, np.random.default_rng((self.seed, epoch)))


def _permuted(members: np.ndarray, blocks: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Sorted examples in a random order; with the blocks that all examples are in, block after block."""
    if blocks is None:
        return rng.permutation(members)
    borders = np.searchsorted(members, blocks)
    order = rng.permutation(len(borders) - 1)
    visited = np.concatenate([members[borders[block] : borders[block + 1]] for block in order])
    windows = [rng.permutation(visited[begin : begin + WINDOW]) for begin in range(0, len(visited), WINDOW)]
    return np.concatenate(windows)


def _endless(
    members: np.ndarray, places: np.ndarray, key: tuple[int, ...], blocks: np.ndarray | None = None
) -> np.ndarray:
    """The examples at some places of an endless row: all members, shuffled anew whenever all have been seen."""
    found = np.zeros(places.shape, np.int64)
    rounds, inside = np.divmod(places, len(members))
    for number in np.unique(rounds):
        shuffled = _permuted(members, blocks, np.random.default_rng((*key, int(number))))
        now = rounds == number
        found[now] = shuffled[inside[now]]
    return found


class BalancedOrder(EpochOrder):
    """Position -> example index, with the examples of each group equally often.

    The whole run is a row of places that the groups take in turn. Each group goes through its own examples, shuffled
    anew whenever all have been seen, so that every example of a group comes equally often too; each epoch's places are
    shuffled. The position alone decides the example, as in any order here.
    """

    def __init__(self, groups: np.ndarray, per_epoch: int, seed: int, repeats: int) -> None:
        """
        Args:
          groups: (N,) whole numbers.
        """
        super().__init__(len(groups), per_epoch, seed, repeats, None)
        order = np.argsort(groups, kind="stable")
        self.members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)

    def _shuffle(self, epoch: int) -> np.ndarray:
        count, turns = -(-self.per_epoch // self.repeats), len(self.members)
        places = epoch * count + np.random.default_rng((self.seed, epoch)).permutation(count)
        found = np.zeros(count, np.int64)
        for group, members in enumerate(self.members):
            own = np.flatnonzero(places % turns == group)
            found[own] = _endless(members, places[own] // turns, (self.seed, group, 1))
        return found


class ShapedOrder(EpochOrder):
    """Position -> example index, where every batch holds examples of one shape.

    The whole run is a row of batches. Each shape has its share of them, spread evenly, and its batches go through its
    own examples, shuffled anew whenever all have been seen: every example comes equally often, whatever its shape, and
    what fills no batch at the end of an epoch comes in the next. Each epoch's batches are shuffled.
    """

    def __init__(
        self, shapes: np.ndarray, batch_size: int, per_epoch: int, seed: int, blocks: np.ndarray | None
    ) -> None:
        """
        Args:
          shapes: (N,) whole numbers.
          batch_size: `per_epoch` is a multiple of it.
        """
        super().__init__(len(shapes), per_epoch, seed, 1, blocks)
        self.batch_size = batch_size
        order = np.argsort(shapes, kind="stable")
        self.members = np.split(order, np.flatnonzero(np.diff(shapes[order])) + 1)

    def _shuffle(self, epoch: int) -> np.ndarray:
        count = self.per_epoch // self.batch_size
        turns = self._turns((epoch + 1) * count)
        before, now = np.split(turns, [epoch * count])
        found = np.zeros((count, self.batch_size), np.int64)
        for shape, members in enumerate(self.members):
            own = np.flatnonzero(now == shape)
            batches = np.count_nonzero(before == shape) + np.arange(len(own))
            places = batches[:, None] * self.batch_size + np.arange(self.batch_size)
            found[own] = _endless(members, places, (self.seed, shape, 2), self.blocks)
        return np.random.default_rng((self.seed, epoch)).permutation(found).ravel()

    def _turns(self, count: int) -> np.ndarray:
        """(count,) which shape each of the run's first batches has: a shape of the share s has its k-th at about
        (k + 1/2) / s."""
        shares = [len(members) / self.size for members in self.members]
        # Enough of each that later batches change none of the first ones.
        times = [(np.arange(int((count + len(shares)) * share) + 2) + 0.5) / share for share in shares]
        owners = np.repeat(np.arange(len(times)), [len(own) for own in times])
        return owners[np.argsort(np.concatenate(times), kind="stable")[:count]]
