"""Decoded picture -> (H, W, C): the evaluation resize and crop, and the training augmentation.

The pixels equal those of timm's transforms before its normalisation, given the same random draws.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from PIL import Image, ImageEnhance

from crosscale.contracts import CropMode, InputSpec
from crosscale.data.augment import Augment
from crosscale.data.auto_augment import AugMix, AutoAugment
from crosscale.data.bands import Bands
from crosscale.data.picture_operations import Affine, pillow_affine
from crosscale.data.policies import AugMixPolicy, AutoAugmentPolicy, parse_policy
from crosscale.data.rand_augment import RandAugment
from crosscale.errors import RequestError

Decoded = Any  # a Pillow image, or `Bands`, which has the part of its interface that is used here
EvalTransform = Callable[[Decoded], np.ndarray]
Operations = RandAugment | AutoAugment | AugMix
TrainTransform = Callable[[Decoded, np.random.Generator], np.ndarray]

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

CROP_MODES: tuple[CropMode, ...] = get_args(CropMode)
CENTRE = (0.5, 0.5)

_RANDOM_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
_MAX_RESIZED_PIXELS = 1 << 26


def to_array(img: Decoded) -> np.ndarray:
    """Mode "L" -> (H, W, 1), "RGB" -> (H, W, 3), uint8; `Bands` -> (H, W, C) float32."""
    array = img.array if isinstance(img, Bands) else np.asarray(img)
    return array[:, :, None] if array.ndim == 2 else array


def eval_transform(spec: InputSpec, place: tuple[float, float] = CENTRE) -> EvalTransform:
    """The one preprocessing of validation, prediction, export and serving.

    By `spec.crop_mode` the picture is resized with Pillow's antialiased filter to floor(size / crop_pct): "center"
    its shorter side, "pad" its longer side, "squash" both. Then the centre `spec.size` is cut out, and what a padded
    picture does not reach has the mean colour. The result maps a decoded image to (H, W, C) uint8, is picklable, and
    equals timm's evaluation transform (`crop_mode` "center", "border" and "squash") bit for bit.

    Args:
      place: of the crop, (top, left) in 0..1; of views (`crosscale.data.views`).

    Raises:
      RequestError: the spec has a size, crop_pct, crop_mode or interpolation that cannot work.
    """
    if spec.pictures > 1:
        return _EachEval(tuple(eval_transform(spec.of_picture(i), place) for i in range(spec.pictures)))
    height, width = spec.size
    if height < 1 or width < 1 or not 0 < spec.crop_pct <= 1:
        raise RequestError(
            f"input size {spec.size} with crop_pct={spec.crop_pct}: sizes are positive and crop_pct in (0, 1]"
        )
    if spec.crop_mode not in CROP_MODES:
        raise RequestError(f"crop_mode={spec.crop_mode!r}: one of {', '.join(CROP_MODES)}")
    return _EvalTransform(
        (height, width), spec.crop_pct, spec.crop_mode, _filter(spec.interpolation), mean_colour(spec), place
    )


def mean_colour(spec: InputSpec) -> tuple[int, ...]:
    """The mean of each channel in 0..255, which normalised is about 0."""
    return tuple(min(255, round(255 * mean)) for mean in spec.mean)


@dataclass(frozen=True)
class _EvalTransform:
    size: tuple[int, int]
    crop_pct: float
    crop_mode: CropMode
    resample: Image.Resampling
    fill: tuple[int, ...]
    place: tuple[float, float] = CENTRE

    def __call__(self, img: Decoded) -> np.ndarray:
        height, width = self.size
        new_width, new_height = self._resized(*img.size)
        if new_width * new_height > _MAX_RESIZED_PIXELS:
            return to_array(_pad(self._crop_then_resize(img, new_width, new_height), width, height, self.fill))
        if (new_width, new_height) != img.size:
            img = img.resize((new_width, new_height), self.resample)
        if new_width < width or new_height < height:
            img = _pad(img, max(width, new_width), max(height, new_height), self.fill)
        top = round((img.height - height) * self.place[0])
        left = round((img.width - width) * self.place[1])
        return to_array(img.crop((left, top, left + width, top + height)))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        scale_height, scale_width = (math.floor(side / self.crop_pct) for side in self.size)
        if self.crop_mode == "squash":
            return scale_width, scale_height
        if self.crop_mode == "pad":
            ratio = max(height / scale_height, width / scale_width)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        if scale_height == scale_width:
            short, long = min(width, height), max(width, height)
            new_long = int(scale_height * long / short)
            return (scale_height, new_long) if width <= height else (new_long, scale_height)
        ratio = min(height / scale_height, width / scale_width)
        return round(width / ratio), round(height / ratio)

    def _crop_then_resize(self, img: Decoded, new_width: int, new_height: int) -> Decoded:
        # A sliver such as 1 x 20,000 would fill gigabytes when resized whole, so only the crop's part is:
        # the same sampling grid, but the filter's sums may differ by one level.
        height, width = min(self.size[0], new_height), min(self.size[1], new_width)
        top, left = round((new_height - height) * self.place[0]), round((new_width - width) * self.place[1])
        to_x, to_y = img.width / new_width, img.height / new_height
        reach_x, reach_y = (math.ceil(3 * max(1.0, scale)) + 1 for scale in (to_x, to_y))  # of lanczos
        part = (
            max(0, math.floor(left * to_x) - reach_x),
            max(0, math.floor(top * to_y) - reach_y),
            min(img.width, math.ceil((left + width) * to_x) + reach_x),
            min(img.height, math.ceil((top + height) * to_y) + reach_y),
        )
        box = (
            left * to_x - part[0],
            top * to_y - part[1],
            (left + width) * to_x - part[0],
            (top + height) * to_y - part[1],
        )
        # Cut to whole pixels first: Pillow keeps the box in single precision.
        return img.crop(part).resize((width, height), self.resample, box=box)


@dataclass(frozen=True)
class _EachEval:
    """Several pictures of one example, one after another in the channels."""

    transforms: tuple[EvalTransform, ...]

    def __call__(self, pictures: Sequence[Decoded]) -> np.ndarray:
        parts = [transform(img) for transform, img in zip(self.transforms, pictures, strict=True)]
        return np.concatenate(parts, axis=-1)


def check_colours(spec: InputSpec, augment: Augment) -> None:
    """Raises RequestError for changes of colour where there are none: at full depth, or of other channels than RGB."""
    if spec.pixels == "uint8":
        return
    given = augment.auto_augment is not None, augment.color_jitter > 0
    if any(given):
        name = "auto_augment" if given[0] else "color_jitter"
        raise RequestError(
            f"augment.{name}={getattr(augment, name)}: is for photographs of 8 bits, and data.pixels is {spec.pixels} "
            f"({spec.channels} channel{'s' * (spec.channels > 1)}); set augment.auto_augment to null and "
            "augment.color_jitter to 0"
        )


def train_transform(spec: InputSpec, augment: Augment) -> TrainTransform:
    """Random resized crop, flips, then a policy's operations or colour jitter.

    The result maps a decoded image and a NumPy generator to (H, W, C) uint8 and is picklable. Random
    erasing, mixup and CutMix work on whole batches on the device: see `crosscale.data.mix`.
    """
    if spec.pictures > 1:
        parts = tuple(train_transform(spec.of_picture(i), augment) for i in range(spec.pictures))
        return _EachTrain(parts, augment.synchronised)
    _filter(spec.interpolation)
    check_colours(spec, augment)
    return _TrainTransform(spec.size, augment, operations(spec, augment))


@dataclass(frozen=True)
class _EachTrain:
    transforms: tuple[TrainTransform, ...]
    synchronised: bool

    def __call__(self, pictures: Sequence[Decoded], rng: np.random.Generator) -> np.ndarray:
        seed = int(rng.integers(1 << 62))
        draws = [np.random.default_rng(seed) if self.synchronised else rng for _ in self.transforms]
        each = zip(self.transforms, pictures, draws, strict=True)
        return np.concatenate([transform(img, draw) for transform, img, draw in each], axis=-1)


def operations(spec: InputSpec, augment: Augment, affine: Affine = pillow_affine) -> Operations | None:
    """The policy's operations, ready to be drawn from; None without a policy."""
    if augment.auto_augment is None:
        return None
    fill = mean_colour(spec)
    if augment.interpolation in ("random", "lanczos"):  # Pillow's affine transforms have no lanczos
        filters = _RANDOM_FILTERS if augment.interpolation == "random" else _RANDOM_FILTERS[1:]
    else:
        filters = (FILTERS[augment.interpolation],)
    policy, colour = parse_policy(augment.auto_augment), fill if len(fill) > 1 else fill[0]
    if isinstance(policy, AutoAugmentPolicy):
        return AutoAugment(policy, colour, filters, affine)
    if isinstance(policy, AugMixPolicy):
        return AugMix(policy, colour, filters, affine)
    return RandAugment(policy, colour, filters, affine)


@dataclass(frozen=True)
class _TrainTransform:
    size: tuple[int, int]
    augment: Augment
    operations: Operations | None

    def __call__(self, img: Decoded, rng: np.random.Generator) -> np.ndarray:
        return finish(self._random_resized_crop(img, rng), self.augment, self.operations, rng)

    def _random_resized_crop(self, img: Decoded, rng: np.random.Generator) -> Decoded:
        top, left, height, width = random_crop_box(img.size, self.augment.scale, self.augment.ratio, rng)
        if self.augment.interpolation == "random":
            resample = _RANDOM_FILTERS[int(rng.integers(2))]
        else:
            resample = FILTERS[self.augment.interpolation]
        # resize(box=...) would read beyond the crop: other pixels than crop, then resize.
        img = img.crop((left, top, left + width, top + height))
        return img.resize((self.size[1], self.size[0]), resample)


def finish(img: Image.Image, augment: Augment, operations: Operations | None, rng: np.random.Generator) -> np.ndarray:
    """What follows the crop: flips, then a policy's operations or colour jitter; (H, W, C)."""
    if augment.hflip > 0 and rng.random() < augment.hflip:
        img = img.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augment.vflip > 0 and rng.random() < augment.vflip:
        img = img.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if operations is not None:
        img = operations(img, rng)
    if (operations is None or operations.jitters) and augment.color_jitter > 0:
        img = _color_jitter(img, augment.color_jitter, rng)
    return to_array(img)


def random_crop_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws a crop of uniform area and log-uniform aspect ratio (Szegedy et al., 2015, section 6).

    Args:
      size: width and height of the picture, in pixels.
      scale: least and most share of its area.
      ratio: least and most width / height of the crop.

    Returns:
      top, left, height, width. After ten draws that do not fit, the largest centred crop within `ratio`.
    """
    width, height = size
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = rng.uniform(*scale) * width * height
        aspect = math.exp(rng.uniform(*log_ratio))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width, crop_height = width, height
    if width / height < ratio[0]:
        crop_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_width = max(1, round(height * ratio[1]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _color_jitter(img: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation by factors in [1 - strength, 1 + strength], in random order."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3)
    for i in rng.permutation(3):
        img = enhancers[i](img).enhance(float(factors[i]))
    return img


def _pad(img: Decoded, width: int, height: int, fill: tuple[int, ...]) -> Decoded:
    if img.size == (width, height):
        return img
    if isinstance(img, Bands):
        return img.padded(width, height)
    padded = Image.new(img.mode, (width, height), fill if len(fill) > 1 else fill[0])
    padded.paste(img, ((width - img.width) // 2, (height - img.height) // 2))
    return padded


def _filter(name: str) -> Image.Resampling:
    if name not in FILTERS:
        raise RequestError(f"interpolation={name!r}: one of {', '.join(FILTERS)}")
    return FILTERS[name]
