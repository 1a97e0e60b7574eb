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
      higher_is_better: of two, which one is the better; None where neither is.
      share: a fraction, shown as percent.
      unit: behind the number.
    """

    label: str
    higher_is_better: bool | None = None
    share: bool = False
    unit: str = ""

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


def score(metrics: Mapping[str, float], measures: Mapping[str, Measure], best: str) -> tuple[float, ...]:
    """What makes one validation better than another: the larger tuple, by `best`, between equals by the lower loss.

    A number that is not finite is worse than any.
    """
    value = _signed(metrics[best], measures[best])
    return (value,) if best == "loss" else (value, _signed(metrics["loss"], measures["loss"]))


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
