"""Numbers of runs that differ by their seed, as cells of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def mean_and_range(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Of each name's values in the rows, fractions, the mean and the range in percent: "97.1 (96.5 to 98.0)"."""
    cells = []
    for name in names:
        values = [100 * row[name] for row in rows]
        cells.append(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
    return cells
