"""What the tests of faults tried and what came back: JSON lines for `benchmarks/reliability_table.py`."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECORDS = "CROSSCALE_RELIABILITY_RECORDS"
"""The environment variable that names the file; without it nothing is written."""


def record(fault: str, *, tried: int = 0, recovered: int = 0, lost: str | None = None) -> None:
    """Appends a line. Counts of one fault add up over lines.

    Args:
      fault: what was done to the run, as the table shows it.
      lost: what the comparison with an undisturbed run showed; given with `recovered`.
    """
    if path := os.environ.get(RECORDS):
        line = {"fault": fault, "tried": tried, "recovered": recovered, "lost": lost}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@contextmanager
def trying(fault: str, times: int = 1, lost: str = "nothing") -> Iterator[None]:
    """Counts `fault` as tried, and as recovered when the block, which makes the comparison, passes."""
    record(fault, tried=times)
    yield
    record(fault, recovered=times, lost=lost)
