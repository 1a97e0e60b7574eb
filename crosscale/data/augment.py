"""What happens to a training picture, as one validated value."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from crosscale.data.policies import parse_policy
from crosscale.errors import RequestError
from crosscale.ranges import CHANCE, NOT_NEGATIVE, Range, check_ranges

MixMode = Literal["batch", "pair", "elem"]
EraseMode = Literal["pixel", "rand", "const"]

AT_LEAST_ONE = Range("at least 1", lambda value: value >= 1)
CROP_SHARE = Range("(least, most) with 0 < least <= most <= 1", lambda pair: 0 < pair[0] <= pair[1] <= 1, whole=True)
CROP_RATIO = Range("(least, most) with 0 < least <= most", lambda pair: 0 < pair[0] <= pair[1] < math.inf, whole=True)


@dataclass(frozen=True)
class Augment:
    """Training augmentation, with timm's names, order and defaults (as CrossViT's recipe uses them)."""

    scale: Annotated[tuple[float, float], CROP_SHARE] = (0.08, 1.0)
    """Share of the picture's area that the random crop keeps, (least, most)."""
    ratio: Annotated[tuple[float, float], CROP_RATIO] = (3 / 4, 4 / 3)
    """Aspect ratio (width / height) of the random crop, (least, most)."""
    interpolation: Literal["random", "nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """Pillow filter of the crop's resize; random draws bilinear or bicubic per picture."""
    hflip: Annotated[float, CHANCE] = 0.5
    """Chance of a left-right flip."""
    vflip: Annotated[float, CHANCE] = 0.0
    """Chance of a top-bottom flip."""
    color_jitter: Annotated[float, NOT_NEGATIVE] = 0.4
    """Largest relative change of brightness, contrast and saturation; unused with auto_augment, except 3a."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """A policy in timm's words: RandAugment (rand-m9-mstd0.5-inc1), AutoAugment (original, originalr, v0, v0r),
    3-Augment (3a) or AugMix (augmix-m3-w3); null for none."""
    erase_prob: Annotated[float, CHANCE] = 0.25
    """Chance that a rectangle of a picture is erased."""
    erase_mode: EraseMode = "pixel"
    """What fills it: noise of a colour per pixel, of one random colour for all of it, or the mean colour (const)."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.8
    """Alpha of mixup's beta distribution; 0 turns mixup off."""
    cutmix: Annotated[float, NOT_NEGATIVE] = 1.0
    """Alpha of CutMix's beta distribution; 0 turns CutMix off."""
    mix_prob: Annotated[float, CHANCE] = 1.0
    """Chance that mixup or CutMix happens, per batch, pair or example (mix_mode)."""
    mix_switch_prob: Annotated[float, CHANCE] = 0.5
    """Chance of CutMix instead of mixup when both are on."""
    mix_mode: MixMode = "batch"
    """Whether the mix is drawn once per batch, per pair of examples, or per example."""
    repeats: Annotated[int, AT_LEAST_ONE] = 1
    """How often a picture comes in a row, augmented anew each time; an epoch then sees 1 / repeats of the pictures."""

    synchronised: bool = True
    """Whether the pictures of one example, where it has several, are cropped, flipped and changed alike."""

    @classmethod
    def none(cls) -> "Augment":
        """The whole picture, resized: no randomness at all."""
        return cls(
            scale=(1.0, 1.0),
            ratio=(1e-6, 1e6),
            hflip=0.0,
            color_jitter=0.0,
            auto_augment=None,
            erase_prob=0.0,
            mixup=0.0,
            cutmix=0.0,
            mix_prob=0.0,
        )

    @property
    def mixes(self) -> bool:
        """Whether mixup or CutMix can happen."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    def __post_init__(self) -> None:
        check_ranges("augment", self)
        _one_of("interpolation", self.interpolation, ("random", "nearest", "bilinear", "bicubic", "lanczos"))
        _one_of("mix_mode", self.mix_mode, ("batch", "pair", "elem"))
        _one_of("erase_mode", self.erase_mode, ("pixel", "rand", "const"))
        if self.auto_augment is not None:
            parse_policy(self.auto_augment)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RequestError(f"augment.{name}={value!r}: one of {', '.join(known)}")
