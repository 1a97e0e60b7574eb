"""What the policies do to Pillow images: operations of colour and shape, with timm's strengths.

Levels run over 0..10. "Increasing" schedules are those in which an operation grows with the level.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Fill = int | tuple[int, ...]
Affine = Callable[[Image.Image, tuple[float, ...], Image.Resampling, Fill], Image.Image]

MAX_LEVEL = 10.0
REACH = 0.45


@dataclass(frozen=True)
class _Draw:
    """What an operation may use besides its level: randomness, the fill colour, the resampling filter, and how far
    the highest level moves a picture."""

    rng: np.random.Generator
    fill: Fill
    resample: Image.Resampling
    increasing: bool
    affine: "Affine"
    reach: float

    def signed(self, value: float) -> float:
        return -value if self.rng.random() > 0.5 else value


Operation = Callable[[Image.Image, float, _Draw], Image.Image]


def pillow_affine(img: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling, fill: Fill) -> Image.Image:
    """The picture read at matrix (x, y, 1); what lies outside is `fill`."""
    return img.transform(img.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


def _affine(img: Image.Image, matrix: tuple[float, ...], draw: _Draw) -> Image.Image:
    return draw.affine(img, matrix, draw.resample, draw.fill)


def _shear_x(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    return _affine(img, (1, draw.signed(level / MAX_LEVEL * 0.3), 0, 0, 1, 0), draw)


def _shear_y(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    return _affine(img, (1, 0, 0, draw.signed(level / MAX_LEVEL * 0.3), 1, 0), draw)


def _translate_x(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    return _affine(img, (1, 0, draw.signed(level / MAX_LEVEL * draw.reach) * img.width, 0, 1, 0), draw)


def _translate_y(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    return _affine(img, (1, 0, 0, 0, 1, draw.signed(level / MAX_LEVEL * draw.reach) * img.height), draw)


def _rotate(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    degrees = draw.signed(level / MAX_LEVEL * 30.0)
    if draw.affine is pillow_affine:
        return img.rotate(degrees, resample=draw.resample, fillcolor=draw.fill)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = img.width / 2, img.height / 2
    return _affine(img, (cos, -sin, x - x * cos + y * sin, sin, cos, y - x * sin - y * cos), draw)


def _auto_contrast(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    return ImageOps.autocontrast(img)


def _equalize(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    return ImageOps.equalize(img)


def _invert(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    return ImageOps.invert(img)


def _posterize(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    dropped = int(level / MAX_LEVEL * 4)
    bits = 4 - dropped if draw.increasing else dropped
    # With no bit left the picture would be black, and Pillow refuses it.
    return ImageOps.posterize(img, max(1, bits))


def _posterize_to_four(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    """AutoAugment's own: 4 bits are left at least."""
    bits = int(level / MAX_LEVEL * 4) + 4
    return img if bits >= 8 else ImageOps.posterize(img, bits)


def _solarize(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    threshold = min(256, int(level / MAX_LEVEL * 256))
    return ImageOps.solarize(img, 256 - threshold if draw.increasing else threshold)


def _solarize_add(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    added = min(128, int(level / MAX_LEVEL * 110))
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return img.point(table * len(img.getbands()))


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def operation(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
        if draw.increasing:  # 1 changes nothing; either side of it is stronger
            factor = max(0.1, 1.0 + draw.signed(level / MAX_LEVEL * 0.9))
        else:
            factor = level / MAX_LEVEL * 1.8 + 0.1
        return enhancer(img).enhance(factor)

    return operation


def _desaturate(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    share = min(1.0, 0.5 + 0.5 * level / MAX_LEVEL)
    return ImageEnhance.Color(img).enhance(1.0 - share)


def _blur(img: Image.Image, level: float, draw: _Draw) -> Image.Image:
    least, most = 0.1, 2.0 * min(1.0, level / MAX_LEVEL)  # pixels of the radius
    return img.filter(ImageFilter.GaussianBlur(least + (most - least) * draw.rng.random()))


RAND_AUGMENT: dict[str, Operation] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}

OPERATIONS: dict[str, Operation] = {
    **RAND_AUGMENT,
    "PosterizeOriginal": _posterize_to_four,
    "Desaturate": _desaturate,
    "GaussianBlurRand": _blur,
}


@dataclass(frozen=True)
class Applied:
    """How operations are applied to a mode "L" or "RGB" image.

    Attributes:
      fill: colour of what a geometric operation uncovers, one value per band.
      filters: resampling filters of geometric operations; one is drawn per operation.
      affine: applies a geometric operation's matrix.
    """

    fill: Fill
    filters: Sequence[Image.Resampling]
    affine: Affine = pillow_affine

    def __call__(
        self,
        name: str,
        img: Image.Image,
        level: float,
        rng: np.random.Generator,
        *,
        increasing: bool = False,
        reach: float = REACH,
    ) -> Image.Image:
        """One operation.

        Args:
          level: in 0..10.
          increasing: whether it grows with the level.
          reach: share of the side that the highest level moves a picture by.
        """
        resample = self.filters[int(rng.integers(len(self.filters)))] if len(self.filters) > 1 else self.filters[0]
        return OPERATIONS[name](img, level, _Draw(rng, self.fill, resample, increasing, self.affine, reach))


@dataclass(frozen=True)
class Policied:
    """What applies a policy to an image has.

    Attributes:
      policy: which operations, how many and how strong.
      fill: see `Applied`, and so for the next two.
    """

    policy: Any
    fill: Fill
    filters: Sequence[Image.Resampling]
    affine: Affine = pillow_affine

    @property
    def applied(self) -> Applied:
        """Applies one operation."""
        return Applied(self.fill, self.filters, self.affine)


def drawn_level(rng: np.random.Generator, magnitude: float, std: float, most: float = MAX_LEVEL) -> float:
    """A level around `magnitude`: normal, or for an infinite `std` uniform in 0..magnitude; cut to 0..most."""
    if std == float("inf"):
        magnitude = rng.uniform(0, magnitude)
    elif std > 0:
        magnitude = rng.normal(magnitude, std)
    return float(min(max(magnitude, 0.0), most))
