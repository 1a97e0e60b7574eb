"""A picture and its objects, changed together: resize, crop, flip, mosaic; and the picture's colours.

The picture's resize is Pillow's bilinear one, which averages where it shrinks; masks are taken at
floor(i * in / out), whole. Four pictures around a point are the mosaic of Bochkovskiy et al., YOLOv4 (2020), section
3.4; a wide range of scales is the jitter of Ghiasi et al., Simple Copy-Paste (2021), section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from crosscale.data.box_augment import BoxAugment
from crosscale.data.coco_masks import bitmap
from crosscale.data.decode import BadImage
from crosscale.data.joint_transforms import Size, distorted, nearest
from crosscale.data.objects import Objects
from crosscale.data.transforms import to_array

LEAST_SIDE = 1.0  # pixels of a box that is left after cropping
MIDDLE = (0.25, 0.75)  # of the sides, where a mosaic's four pictures meet


@dataclass(frozen=True)
class Shown:
    """A picture and the visible parts of its objects.

    Attributes:
      image: (h, w, C) uint8.
      boxes: (n, 4) float64, within the picture.
      labels: (n,) int64.
      crowd: (n,) bool.
      bitmaps: (n, h, w) bool, or None.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    bitmaps: np.ndarray | None

    def largest(self, most: int) -> "Shown":
        """At most so many of its objects: the largest boxes, in the order in which they are."""
        if len(self.labels) <= most:
            return self
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1)
        which = np.sort(np.argsort(-areas, kind="stable")[:most])
        bitmaps = None if self.bitmaps is None else self.bitmaps[which]
        return Shown(self.image, self.boxes[which], self.labels[which], self.crowd[which], bitmaps)


def resized(size: Size, scale: tuple[int, int], limit: Size | None = None, ratio: float = 1.0) -> Size:
    """The size to which a picture of `size` is resized, its ratio kept.

    Args:
      scale: longest and shortest side that it is to fit.
      limit: height and width that it also has to fit.
      ratio: what that is multiplied by.
    """
    factor = min(max(scale) / max(size), min(scale) / min(size))
    if limit is not None:
        factor = min(factor, limit[0] / size[0], limit[1] / size[1])
    return max(1, int(size[0] * factor * ratio + 0.5)), max(1, int(size[1] * factor * ratio + 0.5))


def scaled(boxes: np.ndarray, size: Size, new_size: Size) -> np.ndarray:
    """Boxes of a picture of `size` after its resize, each side by its own factor."""
    factors = np.array([new_size[1] / size[1], new_size[0] / size[0]] * 2)
    return boxes * factors


@dataclass(frozen=True)
class BoxTransform:
    """Draws training examples from pictures and their objects; picklable.

    Attributes:
      size: height and width that the picture fits into.
      scale: (longest, shortest) side before `augment.ratio`; a picture that would not fit into `size` is made smaller.
      masks: whether bitmaps are made.
    """

    size: Size
    scale: tuple[int, int]
    augment: BoxAugment
    masks: bool = False

    def __call__(
        self,
        img: Image.Image,
        objects: Objects,
        rng: np.random.Generator,
        *,
        window: Size | None = None,
        name: str = "",
    ) -> Shown:
        """One picture, resized, cropped and flipped as is drawn.

        An object that shows less than a pixel's width or height, or no pixel of its mask, is left out; the box of one
        that is cut is that of what remains of its mask, or without masks of its box.

        Args:
          img: mode "L" or "RGB".
          window: height and width that it is cropped to; None is `size`.
          name: for the error.

        Raises:
          BadImage: a mask that is damaged.
        """
        high, wide = window or self.size
        before = (img.height, img.width)
        whole = resized(before, self.scale, self.size, rng.uniform(*self.augment.ratio))
        top = int(rng.integers(max(0, whole[0] - high) + 1))
        left = int(rng.integers(max(0, whole[1] - wide) + 1))
        height, width = min(high, whole[0]), min(wide, whole[1])
        img = _part(img, whole, (top, left, height, width))
        boxes = scaled(objects.boxes, before, whole) - np.array([left, top, left, top])
        bitmaps = None
        if self.masks:
            rows = nearest(before[0], whole[0], top, height)
            columns = nearest(before[1], whole[1], left, width)
            bitmaps = _bitmaps(objects, before, rows, columns, name)
        if rng.random() < self.augment.hflip:
            img = img.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            bitmaps = None if bitmaps is None else bitmaps[:, :, ::-1]
        if self.augment.photometric:
            img = distorted(img, rng)
        return _seen(to_array(img), boxes, objects, bitmaps)

    def mosaic(
        self, pictures: Sequence[tuple[str, Image.Image, Objects]], fill: Sequence[int], rng: np.random.Generator
    ) -> Shown:
        """Four pictures around a point, each in its quarter, on `fill`. Raises BadImage as a call does."""
        height, width = self.size
        y, x = (max(1, int(side * rng.uniform(*MIDDLE))) for side in self.size)
        image = np.empty((height, width, len(fill)), np.uint8)
        image[:] = np.array(fill, np.uint8)
        parts: list[Shown] = []
        for number, (name, img, objects) in enumerate(pictures):
            low, right = divmod(number, 2)
            window = (max(1, height - y if low else y), max(1, width - x if right else x))
            part = self(img, objects, rng, window=window, name=name)
            rows, columns = part.image.shape[:2]
            # A picture smaller than its quarter touches the point in the middle.
            top, left = (y if low else y - rows), (x if right else x - columns)
            image[top : top + rows, left : left + columns] = part.image
            bitmaps = None
            if part.bitmaps is not None:
                bitmaps = np.zeros((len(part.labels), height, width), bool)
                bitmaps[:, top : top + rows, left : left + columns] = part.bitmaps
            boxes = part.boxes + np.array([left, top, left, top])
            parts.append(Shown(image, boxes, part.labels, part.crowd, bitmaps))
        return Shown(
            image,
            boxes=np.concatenate([part.boxes for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            crowd=np.concatenate([part.crowd for part in parts]),
            bitmaps=np.concatenate([p.bitmaps for p in parts if p.bitmaps is not None]) if self.masks else None,
        )


def _part(img: Image.Image, whole: Size, part: tuple[int, int, int, int]) -> Image.Image:
    """The pixels (top, left, height, width) of a picture that is resized to `whole`, without the rest."""
    top, left, height, width = part
    if (height, width) == whole:
        return img if (width, height) == img.size else img.resize((width, height), Image.Resampling.BILINEAR)
    to_x, to_y = img.width / whole[1], img.height / whole[0]
    right, bottom = min(img.width, (left + width) * to_x), min(img.height, (top + height) * to_y)
    return img.resize((width, height), Image.Resampling.BILINEAR, box=(left * to_x, top * to_y, right, bottom))


def _bitmaps(objects: Objects, size: Size, rows: np.ndarray, columns: np.ndarray, name: str) -> np.ndarray:
    """(N, rows, columns) bool. A crowd without a mask has none of its pixels."""
    found = np.zeros((len(objects), len(rows), len(columns)), bool)
    for number, segmentation in enumerate(objects.masks or ()):
        try:
            found[number] = bitmap(segmentation, size).take(rows, 0).take(columns, 1)
        except ValueError as error:
            raise BadImage(name, f"the mask of its object {number + 1} is damaged ({error}); draw it anew") from None
    return found


def _seen(image: np.ndarray, boxes: np.ndarray, objects: Objects, bitmaps: np.ndarray | None) -> Shown:
    height, width = image.shape[:2]
    limits = np.array([width, height] * 2, np.float64)
    cut = boxes.clip(0, limits)
    if bitmaps is not None:
        for number in np.flatnonzero((cut != boxes).any(1)):
            ys, xs = (np.flatnonzero(bitmaps[number].any(axis)) for axis in (1, 0))
            if ys.size:
                cut[number] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    kept = (cut[:, 2:] - cut[:, :2] >= LEAST_SIDE).all(1)
    if bitmaps is not None:
        kept &= bitmaps.any((1, 2)) | objects.crowd
        bitmaps = bitmaps[kept]
    return Shown(image, cut[kept], objects.labels[kept], objects.crowd[kept], bitmaps)
