"""AutoAugment (Cubuk et al., 2019), 3-Augment (Touvron et al., 2022, DeiT III) and AugMix (Hendrycks et al., 2020) on
Pillow images, with the tables, operations and strengths of timm.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from crosscale.data.picture_operations import REACH, Applied, Policied, drawn_level
from crosscale.data.policies import AugMixPolicy, AutoAugmentPolicy

_INCREASING = "Increasing"
MIX_REACH = 0.3

# (operation, chance, level); of timm's names, "TranslateYRel" is "TranslateY" here.
Part = tuple[str, float, float]

# The table of the paper, as printed there.
_ORIGINAL: tuple[tuple[Part, ...], ...] = (
    (("PosterizeOriginal", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("PosterizeOriginal", 0.6, 7), ("PosterizeOriginal", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("PosterizeOriginal", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("PosterizeOriginal", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
# The table that EfficientNet's released code has.
_V0: tuple[tuple[Part, ...], ...] = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def _with_increasing(table: tuple[tuple[Part, ...], ...], name: str) -> tuple[tuple[Part, ...], ...]:
    """The table with an operation that grows with its level in place of `name`."""
    return tuple(
        tuple((f"Posterize{_INCREASING}" if part[0] == name else part[0], *part[1:]) for part in parts)
        for parts in table
    )


# Keys are the names of `AutoAugmentPolicy`.
TABLES: dict[str, tuple[tuple[Part, ...], ...]] = {
    "original": _ORIGINAL,
    "originalr": _with_increasing(_ORIGINAL, "PosterizeOriginal"),
    "v0": _V0,
    "v0r": _with_increasing(_V0, "Posterize"),
    "3a": ((("Solarize", 1.0, 5),), (("Desaturate", 1.0, 10),), (("GaussianBlurRand", 1.0, 10),)),
}
MIXED = (
    "AutoContrast",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "Equalize",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)


@dataclass(frozen=True)
class AutoAugment(Policied):
    """Applies one of a table's rows, drawn at random, to a mode "L" or "RGB" image.

    Attributes:
      policy: which table, and how much its levels vary.
    """

    policy: AutoAugmentPolicy

    @property
    def jitters(self) -> bool:
        """Whether colour jitter comes after it, as DeiT III has it."""
        return self.policy.name == "3a"

    def __call__(self, img: Image.Image, rng: np.random.Generator) -> Image.Image:
        applied, table = self.applied, TABLES[self.policy.name]
        for name, chance, magnitude in table[int(rng.integers(len(table)))]:
            if chance >= 1 or rng.random() <= chance:
                level = drawn_level(rng, magnitude, self.policy.magnitude_std)
                img = _one(applied, name, img, level, rng)
        return img


@dataclass(frozen=True)
class AugMix(Policied):
    """Mixes a mode "L" or "RGB" image with a mixture of chains of operations on it.

    Attributes:
      policy: how many chains, how long, how strong.
      jitters: whether colour jitter comes after it.
    """

    jitters: ClassVar[bool] = False
    policy: AugMixPolicy

    def __call__(self, img: Image.Image, rng: np.random.Generator) -> Image.Image:
        policy, applied = self.policy, self.applied
        weights = rng.dirichlet([policy.alpha] * policy.width).astype(np.float32)
        share = float(np.float32(rng.beta(policy.alpha, policy.alpha)))
        mixed = np.zeros(np.asarray(img).shape, np.float32)
        for weight in weights:
            chained = img
            for choice in rng.integers(len(MIXED), size=policy.depth or int(rng.integers(1, 4))):
                level = drawn_level(rng, policy.magnitude, policy.magnitude_std)
                chained = _one(applied, MIXED[choice], chained, level, rng, MIX_REACH)
            mixed += weight * np.asarray(chained, np.float32)
        return Image.blend(img, Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)), share)


def _one(
    applied: Applied, name: str, img: Image.Image, level: float, rng: np.random.Generator, reach: float = REACH
) -> Image.Image:
    """An operation by the name that a table has for it."""
    increasing = name.endswith(_INCREASING)
    return applied(name.removesuffix(_INCREASING), img, level, rng, increasing=increasing, reach=reach)
