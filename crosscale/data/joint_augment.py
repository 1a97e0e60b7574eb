"""What happens to a training picture and its mask together, as one validated value."""

import math
from dataclasses import dataclass
from typing import Annotated

from crosscale.ranges import ABOVE_ZERO, CHANCE, Range, check_ranges

SIDES = Range("positive whole numbers", lambda side: side >= 1)
LONG_SHORT = Range(
    "(longest, shortest) with longest >= shortest >= 1", lambda pair: pair[0] >= pair[1] >= 1, whole=True
)
RESIZE = Range("(least, most) with 0 < least <= most", lambda pair: 0 < pair[0] <= pair[1] < math.inf, whole=True)


@dataclass(frozen=True)
class JointAugment:
    """Training augmentation of pictures with masks, as the released segmentation recipes use it."""

    crop: Annotated[tuple[int, int] | None, SIDES] = None
    """Height and width of a training crop; null is the model's input size."""
    scale: Annotated[tuple[int, int] | None, LONG_SHORT] = None
    """Longest and shortest side that a picture is resized to fit, keeping its ratio; null lets the data decide."""
    ratio: Annotated[tuple[float, float], RESIZE] = (0.5, 2.0)
    """The scale is multiplied by a number drawn between these, (least, most)."""
    max_class_share: Annotated[float, ABOVE_ZERO] = 0.75
    """A crop that one class covers by this much is drawn again, up to ten times; 1 takes the first."""
    hflip: Annotated[float, CHANCE] = 0.5
    """Chance of a left-right flip."""
    photometric: bool = True
    """Whether brightness, contrast, saturation and hue change, each with a chance of one half."""

    @classmethod
    def none(cls) -> "JointAugment":
        """The picture at its scale; only the place of the crop is drawn."""
        return cls(ratio=(1.0, 1.0), max_class_share=1.0, hflip=0.0, photometric=False)

    def __post_init__(self) -> None:
        check_ranges("augment", self)
