"""What happens to a training picture, as one validated value, and the RandAugment policy string."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from crosscale.errors import RequestError
from crosscale.ranges import CHANCE, NOT_NEGATIVE, Range, check_ranges

MixMode = Literal["batch", "pair", "elem"]
EraseMode = Literal["pixel", "rand", "const"]

AT_LEAST_ONE = Range("at least 1", lambda value: value >= 1)
CROP_SHARE = Range("(least, most) with 0 < least <= most <= 1", lambda pair: 0 < pair[0] <= pair[1] <= 1, whole=True)
CROP_RATIO = Range("(least, most) with 0 < least <= most", lambda pair: 0 < pair[0] <= pair[1] < math.inf, whole=True)


@dataclass(frozen=True)
class RandAugmentPolicy:
    """A parsed policy string such as "rand-m9-mstd0.5-inc1" (Cubuk et al., 2020, as timm extends it)."""

    magnitude: float = 10.0
    """Mean strength of an operation, 0..10 ("m")."""
    num_layers: int = 2
    """Operations drawn per picture, with replacement ("n")."""
    prob: float = 0.5
    """Chance that a drawn operation is applied ("p")."""
    magnitude_std: float = 0.0
    """Standard deviation of the strength; infinite means uniform in 0..magnitude ("mstd")."""
    magnitude_max: float = 10.0
    """Upper bound of the strength ("mmax")."""
    increasing: bool = False
    """Whether every operation grows with the magnitude ("inc1")."""

    @classmethod
    def parse(cls, text: str) -> "RandAugmentPolicy":
        """Reads a policy string.

        Raises:
          RequestError: another kind of policy, an unknown or repeated part, or a value out of range.
        """
        known = "rand-m<0..10>[-n<ops>][-p<0..1>][-mstd<std>][-mmax<max>][-inc<0|1>]"
        kind, *parts = text.split("-")
        if kind != "rand":
            raise RequestError(f"auto_augment={text!r}: only RandAugment is supported, written {known}")
        values: dict[str, float] = {}
        for part in parts:
            match = re.fullmatch(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?|inf)", part)
            if match is None or match[1] in values:
                why = "is not known" if match is None else "stands twice"
                raise RequestError(f"auto_augment={text!r}: the part {part!r} {why}; write {known}")
            values[match[1]] = float(match[2])
        maximum = values.get("mmax") or 10.0
        whole = all(values.get(key, 1.0).is_integer() for key in ("m", "n", "mmax", "inc"))
        if (
            not whole
            or not 1 <= values.get("n", 2) <= 100
            or values.get("p", 0.0) > 1
            or values.get("inc", 0.0) > 1
            or values.get("m", 0.0) > maximum
        ):
            raise RequestError(f"auto_augment={text!r}: a value is out of range; write {known}")
        std = values.get("mstd", 0.0)
        return cls(
            magnitude=values.get("m", 10.0),
            num_layers=int(values.get("n", 2)),
            prob=values.get("p", 0.5),
            magnitude_std=math.inf if std > 100 else std,
            magnitude_max=maximum,
            increasing=bool(values.get("inc", 0.0)),
        )


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
    """Largest relative change of brightness, contrast and saturation; unused when auto_augment is set."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment policy, or null for none."""
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
            RandAugmentPolicy.parse(self.auto_augment)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RequestError(f"augment.{name}={value!r}: one of {', '.join(known)}")
