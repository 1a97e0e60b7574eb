"""What happens to a training picture and its boxes together, as one validated value."""

from dataclasses import dataclass
from typing import Annotated, Literal

from crosscale.data.joint_augment import LONG_SHORT, RESIZE
from crosscale.ranges import CHANCE, check_ranges

Batches = Literal["mixed", "oriented"]


@dataclass(frozen=True)
class BoxAugment:
    """Training augmentation of pictures with boxes; as it stands, that of the released detection recipes."""

    scale: Annotated[tuple[int, int] | None, LONG_SHORT] = None
    """Longest and shortest side that a picture is resized to fit, keeping its ratio; null lets the data decide."""
    ratio: Annotated[tuple[float, float], RESIZE] = (1.0, 1.0)
    """The scale is multiplied by a number drawn between these, (least, most); what does not fit is cropped at random.
    Large-scale jitter is (0.1, 2.0)."""
    hflip: Annotated[float, CHANCE] = 0.5
    """Chance of a left-right flip."""
    photometric: bool = False
    """Whether brightness, contrast, saturation and hue change, each with a chance of one half."""
    mosaic: Annotated[float, CHANCE] = 0.0
    """Chance that four pictures are laid around a point to make one."""

    @classmethod
    def none(cls) -> "BoxAugment":
        """The picture at its scale."""
        return cls(hflip=0.0)

    def __post_init__(self) -> None:
        check_ranges("augment", self)
