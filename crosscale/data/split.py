"""Which examples are held out where the data comes as one part."""

import os
from collections.abc import Sequence
from hashlib import sha256

import numpy as np


def stratified_split(ids: Sequence[str], labels: np.ndarray, val_fraction: float, seed: int) -> np.ndarray:
    """Which examples are held out: a boolean (N,), `val_fraction` of each class.

    The choice hangs on each example's id and the seed alone (the smallest SHA-256 digests are held out),
    so it is the same on every machine and in every version, whatever the order. A class of two or more
    keeps at least one example on each side.
    """
    keys = [sha256(os.fsencode(f"{seed}/{name}")).digest() for name in ids]
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    held_out = np.zeros(len(ids), bool)
    for indices in members.values():
        count = min(max(1, round(len(indices) * val_fraction)), len(indices) - 1)
        held_out[sorted(indices, key=keys.__getitem__)[:count]] = True
    return held_out
