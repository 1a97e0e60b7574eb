"""How both sides time themselves: the standard library alone, for it also runs in the peer's Python."""

import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

MIN_ITERATIONS = 5
WARM_UP = 3


def timed(step: Callable[[], None], seconds: float) -> dict[str, Any]:
    """Warms up, then runs `step` for `seconds`, and at least five times.

    Args:
      step: one batch; returns when its result is there, not when it has been asked for.
      seconds: of wall clock, warm-up not counted.

    Returns:
      "seconds": the median of one step; "best": the quickest; "iterations": how many there were.
    """
    for _ in range(WARM_UP):
        step()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < MIN_ITERATIONS or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        samples.append(time.perf_counter() - began)
    return {"seconds": median(samples), "best": min(samples), "iterations": len(samples)}


def best(step: Callable[[], None], count: int) -> float:
    """Seconds of the quickest of `count` runs, after one that does not count."""
    step()
    samples: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        samples.append(time.perf_counter() - began)
    return min(samples)


def first_call(step: Callable[[], None]) -> float:
    """Seconds until the result of the very first call."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def host_peak_bytes() -> int | None:
    """The most memory this process ever had resident; None where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
