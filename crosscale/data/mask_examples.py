"""From a record of a picture and its labels to the arrays of one example."""

import math

import numpy as np
from PIL import Image

from crosscale.contracts import InputSpec, Record
from crosscale.data.decode import BadImage, decode
from crosscale.data.joint_augment import JointAugment
from crosscale.data.joint_transforms import Size, fitted, joint_transform
from crosscale.data.mask_read import IGNORED
from crosscale.data.transforms import to_array
from crosscale.errors import RequestError

IMAGE, MASK, SIZE = "image", "mask", "size"  # names in a batch

SCALE = (2048, 512)  # the longest and shortest side of the released ADE20K evaluation
STEP = 32  # what a network's sides are multiples of
CANVAS_STEP = 128  # what the sides of masks are filled up to, so that few shapes are compiled

ShapeKey = tuple[Size, Size]  # the network's size, the canvas


class SegmentationExamples:
    """A picture and its labels, prepared for a network.

    Training examples are crops of one size. In validation a picture keeps its ratio, except for what `step` rounds, and
    its labels keep their own resolution: the shapes depend on the picture's size alone (`shape_key`).
    """

    def __init__(
        self,
        spec: InputSpec,
        augment: JointAugment | None = None,
        *,
        scale: tuple[int, int] = SCALE,
        step: int = STEP,
    ) -> None:
        """
        Args:
          spec: channels, the mean that fills around a crop, and the size of training crops where `augment` names none.
          augment: of training; None prepares for validation alone.
          scale: longest and shortest side that pictures are resized to fit.
          step: both sides of a validation picture are raised to a multiple of it.

        Raises:
          RequestError: the scale, the step or the size cannot work.
        """
        longest, shortest = scale
        if not longest >= shortest >= 1 or step < 1 or min(spec.size) < 1:
            raise RequestError(
                f"scale={list(scale)}, step={step}, size={list(spec.size)}: the scale is a longest and a shortest "
                "side, and all are positive"
            )
        self.spec = spec
        self.scale = (longest, shortest)
        self.step = step
        self.crop: Size = (augment.crop if augment is not None else None) or spec.size
        self._transform = None if augment is None else joint_transform(spec, augment, self.scale)

    @property
    def trains(self) -> bool:
        """Whether they were made for training too."""
        return self._transform is not None

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """ "image" (*crop, C) and "mask" (*crop), both uint8; 255 is ignored. Raises BadImage."""
        assert self._transform is not None, "made without an augmentation"
        img, labels = self._decoded(record)
        image, mask = self._transform(img, labels, rng)
        return {IMAGE: image, MASK: mask}

    def validation(self, record: Record) -> dict[str, np.ndarray]:
        """A picture as the network sees it, with its labels at their own resolution. Raises BadImage.

        "image" (*network_size, C) uint8; "mask" (*canvas) uint8, the labels filled up with 255 at the right and below;
        "size" (2,) int32, height and width of the labels without that.
        """
        img, labels = self._decoded(record)
        size = (labels.shape[0], labels.shape[1])
        mask = np.full(self.canvas(size), IGNORED, np.uint8)
        mask[: size[0], : size[1]] = labels
        return {IMAGE: self.network_image(img), MASK: mask, SIZE: np.array(size, np.int32)}

    def network_image(self, img: Image.Image) -> np.ndarray:
        """A decoded picture of any size as the network sees it in validation: (*network_size, C) uint8, bilinear."""
        height, width = self.network_size((img.height, img.width))
        if (width, height) != img.size:
            img = img.resize((width, height), Image.Resampling.BILINEAR)
        return to_array(img)

    def network_size(self, size: Size) -> Size:
        """The size in which such a picture is fed: fitted into the scale, then raised to multiples of `step`."""
        height, width = fitted(size, self.scale)
        return math.ceil(height / self.step) * self.step, math.ceil(width / self.step) * self.step

    def canvas(self, size: Size) -> Size:
        """The size of the array that holds labels of this size: multiples of 128."""
        return math.ceil(size[0] / CANVAS_STEP) * CANVAS_STEP, math.ceil(size[1] / CANVAS_STEP) * CANVAS_STEP

    def shape_key(self, size: Size) -> ShapeKey:
        """What validation batches are grouped by: pictures of equal keys have arrays of equal shapes."""
        return self.network_size(size), self.canvas(size)

    def blank(self, shape_key: ShapeKey | None = None) -> dict[str, np.ndarray]:
        """The stand-in for an example that does not count: a picture of zeros, labels that are all ignored.

        Args:
          shape_key: of a validation batch; None is a training example.
        """
        size, canvas = (self.crop, self.crop) if shape_key is None else shape_key
        arrays = {
            IMAGE: np.zeros((*size, self.spec.channels), np.uint8),
            MASK: np.full(canvas, IGNORED, np.uint8),
        }
        return arrays if shape_key is None else {**arrays, SIZE: np.zeros(2, np.int32)}

    def _decoded(self, record: Record) -> tuple[Image.Image, np.ndarray]:
        img = decode(record.image, self.spec.channels, record.id)
        labels = np.asarray(record.target)
        if labels.shape != (img.height, img.width):
            raise BadImage(record.id, f"{img.width} x {img.height} pixels, with labels of shape {labels.shape}")
        return img, labels
