"""What a segmentation reads off its data before it trains."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from crosscale.data.declared import DeclaredSource
from crosscale.data.mask_examples import SCALE, STEP
from crosscale.data.mask_folder import usual_short_side
from crosscale.data.mask_meaning import spread
from crosscale.data.mask_sets import distinct_colours

LOOKED_AT = 256  # masks that tell how common the classes are


class DeclaredMasks(DeclaredSource):
    """Says how many pictures and classes there would be."""

    def __init__(self, classes: Sequence[str], length: int) -> None:
        super().__init__(classes, length)
        self.palette = distinct_colours(len(classes))
        self.notes = ()

    def size(self, index: int) -> tuple[int, int]:
        """Height and width that are assumed of a picture."""
        return SCALE[1], SCALE[1]


def usual_scale(source: Any) -> tuple[int, int]:
    """(longest, shortest) side in pixels for pictures of these sizes.

    The shortest is their usual one, up to that of the released recipes (512), in multiples of 32; the longest is four
    times as much, as theirs is.
    """
    side = SCALE[1] if isinstance(source, DeclaredSource) else min(usual_short_side(source), SCALE[1])
    short = max(STEP, round(side / STEP) * STEP)
    return SCALE[0] * short // SCALE[1], short


def class_weights(source: Any) -> tuple[float, ...] | None:
    """1 / ln(1.02 + share of the pixels) of each class, scaled to a mean of 1; from up to 256 masks.

    Paszke et al.: ENet (2016), section 5.2. None in a dry run, which has no masks to look at.
    """
    if isinstance(source, DeclaredSource):
        return None
    counts = np.zeros(256, np.int64)
    for index in spread(len(source), LOOKED_AT):
        counts += np.bincount(source.labels(index).ravel(), minlength=256)
    known = counts[: len(source.classes)].astype(np.float64)
    weights = 1 / np.log(1.02 + known / max(known.sum(), 1))
    return tuple(float(weight) for weight in weights / weights.mean())
