"""How the numbers of a validation are called, read and compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from crosscale.errors import RequestError, did_you_mean


@dataclass(frozen=True)
class Measure:
    """One number of a validation.

    Attributes:
      label: for people, such as "top-1".
      higher_is_better: which of two is the better; None where neither is.
      share: a fraction, shown as percent.
      unit: behind the number.
      of_pictures: the share of the pictures that were right, each being right or wrong.
    """

    label: str
    higher_is_better: bool | None = None
    share: bool = False
    unit: str = ""
    of_pictures: bool = False

    @property
    def label_with_unit(self) -> str:
        """The label, and the unit where there is one."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def shown(self, value: float | None) -> str:
        """The number as people read it; a dash where there is none."""
        if value is None or not math.isfinite(value):
            return "\N{EN DASH}"
        if self.share:
            return f"{100 * value:.2f} %"
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"

    def counted(self, value: float | None, examples: float | None) -> str:
        """What the number is worth where it counts pictures: "30 of 32; 95 % interval 79.9 to 98.3 %"; else ""."""
        if not self.of_pictures or value is None or not examples or not math.isfinite(value):
            return ""
        low, high = wilson_interval(value, examples)
        right = f"{round(value * examples):,} of {round(examples):,}"
        return f"{right}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """The 95 % confidence interval of a share of `count` trials (Wilson, 1927), which holds near 0 and 1 too."""
    z2 = 1.959964**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def score(metrics: Mapping[str, float], measures: Mapping[str, Measure], best: str) -> tuple[float, ...]:
    """What makes one validation better than another: the larger tuple, by `best`, between equals by the lower loss.

    A number that is not finite is worse than any. Where a task's validation gives no loss, `best` alone decides.
    """
    value = _signed(metrics[best], measures[best])
    if best == "loss" or "loss" not in measures:
        return (value,)
    return (value, _signed(metrics["loss"], measures["loss"]))


def check_best(name: str | None, measures: Mapping[str, Measure], default: str) -> str:
    """The measure that the best checkpoint is chosen by; None is the task's own.

    Raises:
      RequestError: there is no such measure, or neither end of it is better.
    """
    if name is None:
        return default
    known = [key for key, measure in measures.items() if measure.higher_is_better is not None]
    if name not in known:
        raise RequestError(f"validate.best={name}: one of {', '.join(known)}{did_you_mean(name, known)}")
    return name


def _signed(value: float, measure: Measure) -> float:
    if not math.isfinite(value):
        return -math.inf
    return value if measure.higher_is_better else -value
