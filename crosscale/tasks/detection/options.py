"""The recipe's keys of a detection."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from crosscale.data.box_augment import Batches, BoxAugment
from crosscale.models.region_detection import LEARNT
from crosscale.ranges import NOT_NEGATIVE, POSITIVE, SHARE, Range, check_ranges
from crosscale.tasks.detection.anchor_loss import BoxLoss

REGIONS = Range("must be 4 or more", lambda count: count >= 4)


@dataclass(frozen=True)
class Limits:
    """Which boxes a picture keeps, in validation and prediction."""

    score_threshold: Annotated[float, SHARE] = 0.05
    """In validation and prediction: the least score of a box that counts; COCO's numbers want a low one."""
    nms_threshold: Annotated[float, SHARE] = 0.5
    """In validation and prediction: a box that overlaps a better one of its class by more than this is left out."""
    max_detections: Annotated[int, POSITIVE] = 100
    """In validation and prediction: the most boxes of a picture."""


@dataclass(frozen=True)
class ObjectOptions(Limits, BoxAugment):
    """What all tasks of objects are told."""

    batches: Batches = "mixed"
    """Training pictures: of all forms in a batch, filled up to the input (mixed), or landscape and portrait ones in
    batches of their own, filled up to the sides of scale alone (oriented): two shapes, each compiled once."""

    def __post_init__(self) -> None:
        check_ranges("task", self)

    @property
    def limits(self) -> Limits:
        """Which boxes are kept."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

    @property
    def augment(self) -> BoxAugment:
        """The part that pictures and boxes are changed by."""
        return BoxAugment(**{field.name: getattr(self, field.name) for field in fields(BoxAugment)})


@dataclass(frozen=True)
class DetectionOptions(ObjectOptions):
    """Boxes, each of a class and with a score."""

    name: Literal["detection"] = "detection"
    """What is learnt."""
    box_loss: BoxLoss = "l1"
    """Loss of the boxes: L1 of what the head says of an anchor, or 1 - generalised overlap (giou)."""
    box_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the boxes' loss beside the classes'."""
    max_objects: Annotated[int | None, POSITIVE] = None
    """The most objects that are learnt of a training picture, the largest ones; null is the most that any has."""


@dataclass(frozen=True)
class InstanceOptions(ObjectOptions):
    """Boxes, each of a class, with a score and a mask."""

    name: Literal["instances"] = "instances"
    """What is learnt."""
    regions: Annotated[int, REGIONS] = LEARNT
    """Boxes that are learnt of a training picture; a quarter of them at most show an object, and masks are learnt of
    these."""
    max_objects: Annotated[int | None, POSITIVE] = None
    """The most objects that are learnt of a training picture, the largest ones; null is the most that any has."""
