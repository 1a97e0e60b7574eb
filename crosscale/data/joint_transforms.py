"""A picture and its labels, changed together: resize, crop, flip; and the picture's colours.

The steps, their order and ranges are those of the released ADE20K recipes. The picture's resize is Pillow's bilinear
one, which averages where it shrinks; labels are taken at floor(i * in / out), whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from crosscale.contracts import InputSpec
from crosscale.data.joint_augment import JointAugment
from crosscale.data.mask_read import IGNORED, counts_of
from crosscale.data.transforms import to_array

DRAWS = 10  # further crops, where one class covers too much
BRIGHTNESS = 32.0
FACTORS = (0.5, 1.5)  # of contrast and of saturation
HUE = 18  # of 180

_BLOCK = 1 << 15  # pixels

Size = tuple[int, int]  # height, width


def fitted(size: Size, scale: tuple[int, int]) -> Size:
    """The largest size of the same ratio whose longer and shorter sides are at most `scale` (longest, shortest)."""
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def nearest(length: int, new_length: int, first: int = 0, count: int | None = None) -> np.ndarray:
    """Where the pixels first..first+count-1 of a resized side come from: floor(i * length / new_length)."""
    last = new_length if count is None else first + count
    return np.arange(first, last) * length // new_length


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) labels -> `size`, each pixel that of floor(i * in / out)."""
    rows, columns = nearest(labels.shape[0], size[0]), nearest(labels.shape[1], size[1])
    return labels.take(rows, 0).take(columns, 1)


@dataclass(frozen=True)
class JointTransform:
    """Draws one training example from a picture and its labels; picklable.

    Attributes:
      size: of the result.
      scale: (longest, shortest) side before `augment.ratio`.
      fill: per channel, around a picture that is smaller than the crop. Normalised it is about 0, which is what the
        recipes put there.
    """

    size: Size
    scale: tuple[int, int]
    augment: JointAugment
    fill: tuple[int, ...]

    def __call__(self, img: Image.Image, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
          img: mode "L" or "RGB".
          labels: (H, W) uint8, of the same size.

        Returns:
          The picture (*size, C) and its labels (*size), uint8; labels are 255 around a picture smaller than the crop.
        """
        factor = rng.uniform(*self.augment.ratio)
        longest, shortest = (max(1, int(side * factor)) for side in self.scale)
        whole = fitted((img.height, img.width), (longest, shortest))
        (top, left), part = self._crop(labels, whole, rng)
        height, width = part.shape
        to_x, to_y = img.width / whole[1], img.height / whole[0]
        box = (left * to_x, top * to_y, (left + width) * to_x, (top + height) * to_y)
        # What lies beyond the crop is read where the filter reaches it: the pixels are those of the whole, resized.
        img = img.resize((width, height), Image.Resampling.BILINEAR, box=_within(box, img.size))
        if rng.random() < self.augment.hflip:
            img, part = img.transpose(Image.Transpose.FLIP_LEFT_RIGHT), part[:, ::-1]
        if self.augment.photometric:
            img = distorted(img, rng)
        if (height, width) == self.size:
            return to_array(img), np.ascontiguousarray(part)
        image = np.empty((*self.size, len(self.fill)), np.uint8)
        image[:] = np.array(self.fill, np.uint8)
        mask = np.full(self.size, IGNORED, np.uint8)
        image[:height, :width] = to_array(img)
        mask[:height, :width] = part
        return image, mask

    def _crop(self, labels: np.ndarray, whole: Size, rng: np.random.Generator) -> tuple[tuple[int, int], np.ndarray]:
        """Top and left in the resized picture, and the labels there."""
        for draw in range(DRAWS + 1):
            top = int(rng.integers(max(0, whole[0] - self.size[0]) + 1))
            left = int(rng.integers(max(0, whole[1] - self.size[1]) + 1))
            rows = nearest(labels.shape[0], whole[0], top, min(self.size[0], whole[0]))
            columns = nearest(labels.shape[1], whole[1], left, min(self.size[1], whole[1]))
            part = labels.take(rows, 0).take(columns, 1)
            # The last one is taken as it is.
            if draw == DRAWS or self.augment.max_class_share >= 1 or self._is_varied(part):
                break
        return (top, left), part

    def _is_varied(self, part: np.ndarray) -> bool:
        """Whether there are several classes and none covers too much of what is learnt."""
        counts = counts_of(part)[:IGNORED]
        return bool((counts > 0).sum() > 1 and counts.max() < self.augment.max_class_share * counts.sum())


def joint_transform(spec: InputSpec, augment: JointAugment, scale: tuple[int, int]) -> JointTransform:
    """The transform of a recipe.

    Args:
      spec: says the size where `augment.crop` does not, and what fills the rest.
      scale: (longest, shortest) side; `augment.scale` is for the caller to look at.
    """
    fill = tuple(min(255, round(255 * mean)) for mean in spec.mean)
    return JointTransform(augment.crop or spec.size, scale, augment, fill)


def distorted(img: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness by up to 32 levels, contrast and saturation by 0.5 to 1.5, hue by up to 36 degrees: each by a coin.

    Contrast comes before the colours or after them, by a coin. Brightness, contrast and the colours each end in whole
    levels. A grey picture has no saturation and no hue.
    """
    if rng.random() < 0.5:
        img = _levels(img, 1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(*FACTORS) if rng.random() < 0.5 else None
    if contrast is not None and contrast_first:
        img = _levels(img, contrast, 0.0)
    saturation = rng.uniform(*FACTORS) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-HUE, HUE)) if rng.random() < 0.5 else 0
    if img.mode == "RGB" and (saturation != 1.0 or hue):
        img = _colours(img, saturation, hue)
    if contrast is not None and not contrast_first:
        img = _levels(img, contrast, 0.0)
    return img


def _levels(img: Image.Image, factor: float, shift: float) -> Image.Image:
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8).tolist()
    return img.point(table * len(img.getbands()))


def _colours(img: Image.Image, saturation: float, hue: int) -> Image.Image:
    """Saturation and hue of HSV (Smith, 1978), the value V kept; saturation ends at 1, a hue step is 2 degrees."""
    whole = np.array(img)
    rows = max(1, _BLOCK // img.width)
    for top in range(0, img.height, rows):  # in parts that stay in the processor's cache
        block = whole[top : top + rows]
        planes = [block[:, :, channel] for channel in range(3)]
        planes = _turned(planes, saturation, hue / 30) if hue else _saturated(planes, saturation)
        for channel in range(3):
            block[:, :, channel] = planes[channel]
    return Image.fromarray(whole)


def _value_and_chroma(planes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The largest of (H, W) uint8 planes at each pixel, and its distance to the smallest; (H, W) uint8."""
    value = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    return value, value - np.minimum(np.minimum(planes[0], planes[1]), planes[2])


def _saturated(planes: Sequence[np.ndarray], factor: float) -> list[np.ndarray]:
    value, chroma = _value_and_chroma(planes)
    level = value.astype(np.float32)
    # A colour's distances to V grow by the factor, or to where the smallest channel is 0.
    growth = np.minimum(np.float32(factor), level / np.maximum(chroma, 1)) if factor > 1 else np.float32(factor)
    return [_to_bytes(level - (value - plane) * growth) for plane in planes]


def _turned(planes: Sequence[np.ndarray], factor: float, sextants: float) -> list[np.ndarray]:
    red, green, blue = (plane.astype(np.float32) for plane in planes)
    value, chroma = _value_and_chroma(planes)
    # The hue counts sextants from red. Where two channels are largest, either one's rule gives the same.
    is_red = planes[0] == value
    is_green = (planes[1] == value) & ~is_red
    hue = np.where(is_red, green - blue, np.where(is_green, blue - red, red - green))
    hue /= np.maximum(chroma, 1)
    hue += (4 - 2 * is_green.view(np.uint8) - 4 * is_red.view(np.uint8)).astype(np.float32)
    hue += np.float32(sextants)
    hue -= np.float32(6) * np.floor(hue * np.float32(1 / 6))
    level = value.astype(np.float32)
    grown = chroma if factor == 1.0 else np.minimum(chroma * np.float32(factor), level)  # saturation leaves the hue
    least = level - grown
    turned = []
    for share in (np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)):  # of red, green and blue
        np.minimum(share, np.float32(1), out=share)
        np.maximum(share, np.float32(0), out=share)
        share *= grown
        turned.append(_to_bytes(least + share))
    return turned


def _to_bytes(plane: np.ndarray) -> np.ndarray:
    return (plane + np.float32(0.5)).astype(np.uint8)


def _within(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box without what rounding put beyond the picture."""
    return max(0.0, box[0]), max(0.0, box[1]), min(float(size[0]), box[2]), min(float(size[1]), box[3])
