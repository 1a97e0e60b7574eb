"""A share of a source's examples, for a first try on less."""

from typing import Any

import numpy as np

from crosscale.data.split import digests
from crosscale.data.tag_table import rarest


def subset(source: Any, share: float, seed: int) -> Any:
    """The source with `share` of the examples of each class, at least one; with tags, of each rarest label.

    The choice depends only on each example's id and the seed, as for the held-out part, so that it is the same
    everywhere, and a larger share holds all of a smaller one.

    Args:
      share: above 0, up to 1.
    """
    keys = digests([source.record_id(index) for index in range(len(source))], seed)
    members: dict[int, list[int]] = {}
    for index, group in enumerate(strata(source).tolist()):
        members.setdefault(group, []).append(index)
    kept: list[int] = []
    for indices in members.values():
        kept += sorted(indices, key=keys.__getitem__)[: max(1, round(len(indices) * share))]
    return source.select(np.array(sorted(kept), np.int64))


def strata(source: Any) -> np.ndarray:
    """(N,) whole numbers, of which every part of the source has its share: the classes, or each one's rarest tag."""
    labels, tags = getattr(source, "labels", None), getattr(source, "tags", None)
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        return labels
    return rarest(np.asarray(tags) > 0) if isinstance(tags, np.ndarray) else np.zeros(len(source), np.int64)
