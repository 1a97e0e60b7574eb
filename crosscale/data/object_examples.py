"""From a record of a picture and its objects to the arrays of one example."""

import math
from typing import Literal

import numpy as np
from PIL import Image

from crosscale.contracts import InputSpec, Record, Source
from crosscale.data.box_augment import Batches, BoxAugment
from crosscale.data.box_transforms import BoxTransform, Shown, resized
from crosscale.data.cut_masks import SIDE, cut_out, packed_width
from crosscale.data.decode import BadImage, decode
from crosscale.data.joint_transforms import Size
from crosscale.data.objects import Objects
from crosscale.data.transforms import to_array
from crosscale.errors import RequestError

# Names in a batch.
IMAGE, SIZE, BOXES, LABELS, CROWD = "image", "size", "boxes", "labels", "crowd"
MASKS, FRAMES = "masks", "frames"
AREAS, ORIGINAL = "areas", "original"

SCALE = (1333, 800)  # the longest and shortest side of the released COCO recipes
STEP = 32  # what a network's sides are multiples of
SHAPES = 3  # lengths of the longer side, for any short side
NO_OBJECT = -1  # the label where there is none


class ObjectExamples:
    """A picture and its objects, prepared for a network.

    Pictures keep their ratio, and are filled up with the mean at the right and below: in training to one size, or one
    of two by their orientation, in validation to the least of a few sizes (`shape_key`).

    Attributes:
      train_shapes: the sizes (height, width) of training examples, that of landscape pictures first.
    """

    def __init__(
        self,
        spec: InputSpec,
        augment: BoxAugment | None = None,
        *,
        scale: tuple[int, int] = SCALE,
        max_objects: int,
        masks: bool = False,
        shapes: Literal["few", "least"] = "few",
        batches: Batches = "mixed",
        source: Source | None = None,
    ) -> None:
        """
        Args:
          spec: channels, the mean, and the size of training examples.
          augment: of training; None prepares for validation alone.
          scale: longest and shortest side that pictures are resized to fit.
          max_objects: M, how many objects an example has room for. The largest M of a training picture with more are
            learnt: `ObjectSource.above` tells how many such pictures there are. A validation picture with more is
            refused.
          masks: whether training examples have masks.
          shapes: validation pictures are filled up to one of a "few" sizes, or to the "least" that multiples of 32
            give, as a comparison with mmdetection needs it: what is filled up takes part in the attention.
          batches: training pictures are filled up to `spec.size` ("mixed"), or to the scale's own sides, raised to
            multiples of 32, as landscape or portrait ("oriented"): a batch holds those of one orientation.
          source: where a mosaic takes its other pictures from.

        Raises:
          RequestError: the scale, the size or the number cannot work, or a mosaic without a source.
        """
        longest, shortest = scale
        if not longest >= shortest >= 1 or min(spec.size) < 1 or max_objects < 1:
            raise RequestError(
                f"scale={list(scale)}, size={list(spec.size)}, max_objects={max_objects}: the scale is a longest and a "
                "shortest side, and all are positive"
            )
        if augment is not None and augment.mosaic > 0 and source is None:
            raise RequestError(
                f"augment.mosaic={augment.mosaic}: a mosaic takes three more pictures; give their source"
            )
        self.spec = spec
        self.scale = (longest, shortest)
        self.max_objects = max_objects
        self.masks = masks
        self._shapes = shapes
        self._source = source
        self.train_shapes: tuple[Size, ...] = (spec.size,)
        if batches == "oriented":
            long, short = (_raised(side) for side in self.scale)
            self.train_shapes = ((short, long),) if long == short else ((short, long), (long, short))
        transforms = () if augment is None else (BoxTransform(s, self.scale, augment, masks) for s in self.train_shapes)
        self._transforms = tuple(transforms)
        self._fill = tuple(min(255, round(255 * mean)) for mean in spec.mean)

    @property
    def trains(self) -> bool:
        """Whether they were made for training too."""
        return bool(self._transforms)

    @property
    def validation_shapes(self) -> tuple[Size, ...]:
        """The sizes (height, width) that "few" lets validation pictures have."""
        short, longs = self._few()
        return tuple(dict.fromkeys([*((short, long) for long in longs), *((long, short) for long in longs)]))

    def train_shape(self, size: Size) -> int:
        """Which of `train_shapes` a picture of this height and width has as a training example."""
        return int(len(self.train_shapes) > 1 and size[0] > size[1])

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A training example of one of `train_shapes`, (H, W). Raises BadImage.

        "image" (H, W, C) uint8; "size" (2,) int32, height and width without what is filled up; "boxes" (M, 4) float32,
        x0 y0 x1 y1 in pixels of the image; "labels" (M,) int32, -1 where there is no object; "crowd" (M,) bool; with
        masks "masks" (M, 112, 14) uint8, each cut out of its picture, and "frames" (M, 4) float32, which part of it
        they show (`cut_masks.cut_out`).
        """
        assert self._transforms, "made without an augmentation"
        img, objects = self._decoded(record)
        shape = self.train_shape((img.height, img.width))
        transform, shown = self._transforms[shape], None
        chance = transform.augment.mosaic
        if chance > 0 and rng.random() < chance:
            shown = self._mosaic((record.id, img, objects), transform, rng)
        if shown is None:
            shown = transform(img, objects, rng, name=record.id).largest(self.max_objects)
        height, width = shown.image.shape[:2]
        count = len(shown.labels)
        arrays = self.train_blank(shape)
        arrays[IMAGE] = self._filled(shown.image, self.train_shapes[shape])
        arrays[SIZE][:] = height, width
        arrays[BOXES][:count] = shown.boxes
        arrays[LABELS][:count] = shown.labels
        arrays[CROWD][:count] = shown.crowd
        if shown.bitmaps is not None:
            arrays[MASKS][:count], arrays[FRAMES][:count] = cut_out(shown.bitmaps)
        return arrays

    def _mosaic(
        self, first: tuple[str, Image.Image, Objects], transform: BoxTransform, rng: np.random.Generator
    ) -> Shown | None:
        """None where the four have more objects than an example has room for."""
        assert self._source is not None
        others = [self._source[int(number)] for number in rng.integers(len(self._source), size=3)]
        pictures = [first, *((one.id, *self._decoded(one)) for one in others)]
        shown = transform.mosaic(pictures, self._fill, rng)
        return shown if len(shown.labels) <= self.max_objects else None

    def validation(self, record: Record) -> dict[str, np.ndarray]:
        """A picture as the network sees it, with its objects in pixels of the picture as it came. Raises BadImage.

        "image" (*network_size, C) uint8; "size" (2,) int32, height and width without what is filled up; "original" (2,)
        int32, those of the picture as it came; "boxes" (M, 4) float32 in its pixels; "labels" (M,) int32, -1 where
        there is no object; "crowd" (M,) bool; "areas" (M,) float32.
        """
        img, objects = self._decoded(record)
        count = len(objects)
        if count > self.max_objects:
            raise BadImage(
                record.id,
                f"{count:,} objects, and there is room for {self.max_objects:,}; an evaluation counts every one, so "
                "raise max_objects",
            )
        original = (img.height, img.width)
        arrays = self.blank(self.shape_key(original))
        arrays[IMAGE] = self.network_image(img)
        arrays[SIZE][:] = self.fitted_size(original)
        arrays[ORIGINAL][:] = original
        for name, values in ((BOXES, objects.boxes), (LABELS, objects.labels), (CROWD, objects.crowd)):
            arrays[name][:count] = values
        arrays[AREAS][:count] = objects.areas
        return arrays

    def network_image(self, img: Image.Image) -> np.ndarray:
        """A decoded picture of any size as the network sees it in validation: (*network_size, C) uint8."""
        size = (img.height, img.width)
        height, width = self.fitted_size(size)
        if (height, width) != size:
            img = img.resize((width, height), Image.Resampling.BILINEAR)
        return self._filled(to_array(img), self.network_size(size))

    def fitted_size(self, size: Size) -> Size:
        """Height and width of such a picture as the network sees it, without what is filled up."""
        return resized(size, self.scale)

    def network_size(self, size: Size) -> Size:
        """The size in which such a picture is fed."""
        fitted = self.fitted_size(size)
        long, short = (_raised(side) for side in (max(fitted), min(fitted)))
        if self._shapes == "few":
            short, longs = self._few()
            long = next(length for length in longs if length >= long)
        return (short, long) if fitted[0] <= fitted[1] else (long, short)

    def _few(self) -> tuple[int, list[int]]:
        """The shorter side of the few sizes, and their longer sides."""
        longest, short = (_raised(side) for side in self.scale)
        return short, [_raised(short + number * (longest - short) / (SHAPES - 1)) for number in range(SHAPES)]

    def shape_key(self, size: Size) -> Size:
        """What validation batches are grouped by: pictures of equal keys have arrays of equal shapes."""
        return self.network_size(size)

    def blank(self, shape_key: Size | None = None) -> dict[str, np.ndarray]:
        """The stand-in for an example that does not count: a picture of zeros without objects.

        Args:
          shape_key: of a validation batch; None is a training example of the first shape.
        """
        if shape_key is None:
            return self.train_blank(0)
        areas, original = np.zeros(self.max_objects, np.float32), np.zeros(2, np.int32)
        return {**self._blank(shape_key), AREAS: areas, ORIGINAL: original}

    def train_blank(self, shape: int) -> dict[str, np.ndarray]:
        """The same in training, for one of `train_shapes`."""
        arrays = self._blank(self.train_shapes[shape])
        if self.masks:
            arrays[MASKS] = np.zeros((self.max_objects, SIDE, packed_width()), np.uint8)
            arrays[FRAMES] = np.zeros((self.max_objects, 4), np.float32)
        return arrays

    def _blank(self, size: Size) -> dict[str, np.ndarray]:
        most = self.max_objects
        return {
            IMAGE: np.zeros((*size, self.spec.channels), np.uint8),
            SIZE: np.zeros(2, np.int32),
            BOXES: np.zeros((most, 4), np.float32),
            LABELS: np.full(most, NO_OBJECT, np.int32),
            CROWD: np.zeros(most, bool),
        }

    def _decoded(self, record: Record) -> tuple[Image.Image, Objects]:
        return decode(record.image, self.spec.channels, record.id), record.target

    def _filled(self, image: np.ndarray, size: Size) -> np.ndarray:
        """The picture with the mean at the right and below."""
        if image.shape[:2] == size:
            return image
        whole = np.empty((*size, len(self._fill)), np.uint8)
        whole[:] = np.array(self._fill, np.uint8)
        whole[: image.shape[0], : image.shape[1]] = image
        return whole


def _raised(side: float) -> int:
    """To a multiple of 32."""
    return math.ceil(side / STEP) * STEP
