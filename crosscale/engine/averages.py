"""Averages as (sum, count) pairs, so that batches, devices and resumed runs add up to the same number."""

import time
from collections.abc import Mapping
from typing import TypeAlias

Sums: TypeAlias = dict[str, tuple[float, float]]


def add(total: Sums, new: Mapping[str, tuple[float, float]]) -> Sums:
    """The pairs of both, added by name."""
    result = dict(total)
    for name, (value, count) in new.items():
        old_value, old_count = result.get(name, (0.0, 0.0))
        result[name] = (old_value + float(value), old_count + float(count))
    return result


def means(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """sum / count by name; NaN where nothing was counted."""
    return {name: value / count if count else float("nan") for name, (value, count) in sums.items()}


class Meter:
    """Images a second, and the share of the time that was spent waiting for data.

    Attributes:
      images: since the last `read`; the caller adds to it.
      waited: seconds since then; the caller adds to it.
      total_images: up to the last `read` or `pause`.
      total_seconds: likewise.
    """

    def __init__(self) -> None:
        self.images = 0
        self.waited = 0.0
        self.total_images = 0
        self.total_seconds = 0.0
        self._seconds = 0.0
        self._counted = 0
        self._since: float | None = None

    def start(self) -> None:
        """Starts the clock, unless it runs."""
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        """Stops the clock: what follows is not training."""
        if self._since is None:
            return
        passed = time.perf_counter() - self._since
        self._since = None
        self._seconds += passed
        self.total_seconds += passed
        self.total_images += self.images - self._counted
        self._counted = self.images

    def read(self) -> tuple[float, float]:
        """(images a second, share of waiting) since the last call."""
        self.pause()
        seconds = max(self._seconds, 1e-9)
        result = self.images / seconds, min(self.waited / seconds, 1.0)
        self.images = self._counted = 0
        self.waited = self._seconds = 0.0
        return result

    @property
    def rate(self) -> float:
        """Images a second over all; NaN where nothing was counted."""
        return self.total_images / self.total_seconds if self.total_seconds else float("nan")
