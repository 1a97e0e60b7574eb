"""Loss spikes: a step whose loss stands far above those of the steps before it."""

from collections.abc import Sequence
from statistics import median

WINDOW = 64
"""Steps that a loss is compared with."""
LEAST = 16
"""Steps that there must be."""
DEVIATIONS = 8.0
"""Standard deviations above the median that make a spike."""
SHARE = 0.1
"""Share of the median above it that makes a spike, where the losses hardly differ."""
_OF_NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution


def usual_loss(recent: Sequence[float]) -> tuple[float, float] | None:
    """The median of the recent losses, and the least loss that is a spike after them; None for too few of them.

    The median and the median absolute deviation (Hampel, 1974) instead of the mean and the standard deviation: a
    spike that is among the recent losses does not hide the next one.

    Args:
      recent: finite losses of the latest steps, up to `WINDOW`.
    """
    if len(recent) < LEAST:
        return None
    middle = median(recent)
    deviation = _OF_NORMAL * median(abs(loss - middle) for loss in recent)
    return middle, middle + max(DEVIATIONS * deviation, SHARE * abs(middle))
