"""Bounded counts of what is under way: past the bound a request is refused at once instead of waiting."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from crosscale.serve.settings import Refused

_LONGEST_WAIT = 60  # seconds that Retry-After asks for at most


class Bounded:
    """A count of pictures or bytes that never exceeds its limit. Used from the event loop only.

    Attributes:
      limit: the most that may be under way.
      used: what is under way now.
    """

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        self.used = 0
        self._of: Counter[str] = Counter()  # by client, what `growing` has counted
        self._rate = 0.0  # per second, as an exponential average
        self._since = time.monotonic()
        self._done = 0

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Counts `amount` while the block runs. Raises Refused (429) where it does not fit."""
        self._take(amount)
        try:
            yield
        finally:
            self._give(amount)

    @contextmanager
    def growing(self, client: str | None = None) -> Iterator[Callable[[int], None]]:
        """Counts what the block adds, a piece at a time, until its end. Adding raises Refused (429) as `hold` does.

        Args:
          client: whose it is, such as an address; one alone gets half of the limit.
        """
        added = 0

        def add(amount: int) -> None:
            nonlocal added
            if client is not None and self._of[client] + amount > self.limit // 2:
                wait = self.retry_after()
                held = f"{self._of[client]:,} {self.what} of one client"
                raise Refused(429, f"busy: {held} are under way, and the limit is {self.limit // 2:,}", wait)
            self._take(amount)
            added += amount
            if client is not None:
                self._of[client] += amount

        try:
            yield add
        finally:
            self._give(added)
            if client is not None:
                self._of[client] -= added
                self._of += Counter()  # forgets those that hold nothing

    def retry_after(self) -> int:
        """Whole seconds in which what is under way should be done, by the recent rate."""
        wait = math.ceil(self.used / self._rate) if self._rate > 0 else 1
        return min(max(wait, 1), _LONGEST_WAIT)

    def _take(self, amount: int) -> None:
        if self.used + amount > self.limit:
            wait = self.retry_after()
            raise Refused(
                429, f"busy: {self.used:,} of {self.limit:,} {self.what} are under way; retry in {wait} s", wait
            )
        self.used += amount

    def _give(self, amount: int) -> None:
        self.used -= amount
        self._done += amount
        passed = time.monotonic() - self._since
        if passed >= 1:
            rate = self._done / passed
            self._rate = rate if self._rate == 0 else 0.5 * self._rate + 0.5 * rate
            self._since, self._done = time.monotonic(), 0
