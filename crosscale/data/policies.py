"""The policy strings of `augment.auto_augment`, as timm writes them, as validated values."""

import math
import re
from dataclasses import dataclass

from crosscale.errors import RequestError, did_you_mean

AUTO_AUGMENT = ("original", "originalr", "v0", "v0r", "3a")
_RAND = "rand-m<0..10>[-n<ops>][-p<0..1>][-mstd<std>][-mmax<max>][-inc<0|1>]"
_AUGMIX = "augmix[-m<0..10>][-w<chains>][-d<operations>][-a<alpha>][-mstd<std>]"
_WHOLE = {"m", "n", "mmax", "inc", "w", "d"}


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
        values = _parts(text, "rand", ("mstd", "mmax", "inc", "m", "n", "p"), _RAND)
        maximum = values.get("mmax") or 10.0
        if (
            not 1 <= values.get("n", 2) <= 100
            or values.get("p", 0.0) > 1
            or values.get("inc", 0.0) > 1
            or values.get("m", 0.0) > maximum
        ):
            raise _out_of_range(text, _RAND)
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
class AutoAugmentPolicy:
    """A parsed policy string such as "original-mstd0.5" (Cubuk et al., 2019) or "3a" (Touvron et al., 2022)."""

    name: str
    """One of `AUTO_AUGMENT`: the paper's table, EfficientNet's, both with posterizing that grows with its level ("r"),
    or 3-Augment."""
    magnitude_std: float = 0.0
    """Standard deviation of the strengths ("mstd")."""

    @classmethod
    def parse(cls, text: str) -> "AutoAugmentPolicy":
        """Reads a policy string. Raises RequestError as `RandAugmentPolicy.parse` does."""
        name = text.partition("-")[0]
        written = f"{name}[-mstd<std>]"
        values = _parts(text, name, ("mstd",), written)
        if values.get("mstd", 0.0) > 100:
            raise _out_of_range(text, written)
        return cls(name, values.get("mstd", 0.0))


@dataclass(frozen=True)
class AugMixPolicy:
    """A parsed policy string such as "augmix-m5-w4-d2" (Hendrycks et al., 2020, as timm extends it)."""

    magnitude: float = 3.0
    """Strength of an operation, 0..10 ("m")."""
    width: int = 3
    """Chains of operations that are mixed ("w")."""
    depth: int = 0
    """Operations of a chain; 0 draws 1 to 3 for each ("d")."""
    alpha: float = 1.0
    """The parameter of the Dirichlet and beta distributions of the mixture ("a")."""
    magnitude_std: float = math.inf
    """Standard deviation of the strength; infinite means uniform in 0..magnitude ("mstd")."""

    @classmethod
    def parse(cls, text: str) -> "AugMixPolicy":
        """Reads a policy string. Raises RequestError as `RandAugmentPolicy.parse` does."""
        values = _parts(text, "augmix", ("mstd", "m", "w", "d", "a"), _AUGMIX)
        width, depth, alpha = values.get("w", 3), values.get("d", 0), values.get("a", 1.0)
        if not (1 <= width <= 100 and depth <= 100 and 0 < alpha < 1000) or values.get("m", 0.0) > 10:
            raise _out_of_range(text, _AUGMIX)
        std = values.get("mstd", math.inf)
        return cls(values.get("m", 3.0), int(width), int(depth), alpha, math.inf if std > 100 else std)


Policy = RandAugmentPolicy | AutoAugmentPolicy | AugMixPolicy


def parse_policy(text: str) -> Policy:
    """The policy that a string names.

    Raises:
      RequestError: no known kind, an unknown or repeated part, or a value out of range.
    """
    kind = text.partition("-")[0]
    if kind == "rand":
        return RandAugmentPolicy.parse(text)
    if kind == "augmix":
        return AugMixPolicy.parse(text)
    if kind in AUTO_AUGMENT:
        return AutoAugmentPolicy.parse(text)
    known = ("rand", *AUTO_AUGMENT, "augmix")
    raise RequestError(
        f"auto_augment={text!r}: no such policy{did_you_mean(kind, known)}; there are {_RAND}, {_AUGMIX} and "
        f"{', '.join(AUTO_AUGMENT)} (each with -mstd<std>)"
    )


def _parts(text: str, kind: str, keys: tuple[str, ...], known: str) -> dict[str, float]:
    """The numbers behind the keys of a string such as "kind-m9-n2"."""
    first, *parts = text.split("-")
    if first != kind:
        raise RequestError(f"auto_augment={text!r}: not of the kind {known}")
    values: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(rf"({'|'.join(keys)})(\d+(?:\.\d+)?|inf)", part)
        if match is None or match[1] in values:
            why = "is not known" if match is None else "appears twice"
            raise RequestError(f"auto_augment={text!r}: the part {part!r} {why}; write {known}")
        values[match[1]] = float(match[2])
    if not all(value.is_integer() for key, value in values.items() if key in _WHOLE):
        raise _out_of_range(text, known)
    return values


def _out_of_range(text: str, known: str) -> RequestError:
    return RequestError(f"auto_augment={text!r}: a value is out of range; write {known}")
