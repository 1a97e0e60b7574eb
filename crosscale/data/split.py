"""Which examples are held out where the data comes as one part."""

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol, Self, TypeVar

import numpy as np

from crosscale.errors import RequestError


class Selectable(Protocol):
    """A source of which a part can be taken."""

    def select(self, indices: np.ndarray) -> Self: ...


_S = TypeVar("_S", bound=Selectable)


def part_of(
    whole: _S, ids: Sequence[str], labels: np.ndarray, split: str, val_fraction: float, seed: int, where: str
) -> _S:
    """The part of data in one piece that `split` ("train", "val" or "all") names; see `stratified_split`.

    With `val_fraction` 0 all is for training, and nothing is held out.

    Args:
      where: what an error names.

    Raises:
      RequestError: there are too few pictures to hold one out.
    """
    if split == "all":
        return whole
    held_out = stratified_split(ids, labels, val_fraction, seed) if val_fraction else np.zeros(len(ids), bool)
    if val_fraction and not held_out.any():
        raise RequestError(
            f"{where}: too few pictures to hold any out (no class has two); add pictures or a val/ of their own, or "
            "train on all of them, without a validation: --data.val_fraction 0"
        )
    return whole.select(np.flatnonzero(held_out if split == "val" else ~held_out))


def stratified_split(ids: Sequence[str], labels: np.ndarray, val_fraction: float, seed: int) -> np.ndarray:
    """Which examples are held out: a boolean (N,), `val_fraction` of each class.

    The choice depends only on each example's id and the seed (the smallest SHA-256 digests are held out),
    so it is the same on every machine and in every version, whatever the order. A class of two or more
    keeps at least one example on each side.
    """
    keys = digests(ids, seed)
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    held_out = np.zeros(len(ids), bool)
    for indices in members.values():
        count = min(max(1, round(len(indices) * val_fraction)), len(indices) - 1)
        held_out[sorted(indices, key=keys.__getitem__)[:count]] = True
    return held_out


def digests(ids: Sequence[str], seed: int) -> list[bytes]:
    """The digest by which examples are chosen, the smallest first."""
    return [sha256(os.fsencode(f"{seed}/{name}")).digest() for name in ids]
