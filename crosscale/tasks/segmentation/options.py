"""The recipe's keys of a segmentation."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from crosscale.data.joint_augment import JointAugment
from crosscale.errors import RequestError
from crosscale.ranges import ABOVE_ZERO, NOT_NEGATIVE, check_ranges
from crosscale.tasks.segmentation.views import Views


@dataclass(frozen=True)
class SegmentationOptions(Views, JointAugment):
    """A class for every pixel."""

    name: Literal["segmentation"] = "segmentation"
    """What is learnt."""
    reduce_zero_label: bool | None = None
    """Whether the value 0 of the masks is ignored and classes count from 1; null: yes for ADE20K, else no."""
    focal_gamma: Annotated[float, NOT_NEGATIVE] = 0.0
    """Above 0 the loss is focal: pixels that are sure already count less."""
    dice: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the Dice loss beside the pixels'."""
    auxiliary: Annotated[float, NOT_NEGATIVE] = 0.4
    """Weight of the auxiliary head's loss, of a model that has one."""
    class_weights: Literal["auto"] | tuple[float, ...] | None = None
    """A weight per class; auto weighs rare ones more (by their pixels in the training masks), null all alike."""
    hard_pixels: Annotated[float, ABOVE_ZERO] = 1.0
    """Share of a batch's pixels that are learnt from: those with the largest loss."""
    average: Literal["counted", "all"] = "counted"
    """The loss is a mean over the pixels that count, or over all, ignored ones too, as in the released recipes."""

    def __post_init__(self) -> None:
        check_ranges("task", self)
        self.check_views()
        if isinstance(self.class_weights, tuple) and not all(weight > 0 for weight in self.class_weights):
            raise RequestError(f"task.class_weights={list(self.class_weights)}: every weight must be positive")

    @property
    def views(self) -> Views:
        """How pictures are looked at in validation and prediction."""
        return Views(**{field.name: getattr(self, field.name) for field in fields(Views)})

    @property
    def augment(self) -> JointAugment:
        """The part that pictures and masks are changed by."""
        return JointAugment(**{field.name: getattr(self, field.name) for field in fields(JointAugment)})
