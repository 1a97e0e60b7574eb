"""Numbers of runs that differ by their seed, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mean_and_range(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Of each name's values in the rows, fractions, the mean and the range in percent: "97.1 (96.5 to 98.0)"."""
    cells = []
    for name in names:
        values = [100 * row[name] for row in rows]
        cells.append(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
    return cells


def table(
    columns: Sequence[str],
    groups: Mapping[str, Sequence[dict[str, Any]]],
    names: Sequence[str],
    *,
    first: str = "---",
) -> str:
    """A row for each group of runs with `mean_and_range` of the names, as Markdown.

    Args:
      columns: the headings, of the groups and of the names.
      first: how the first column stands; the others stand on the right.
    """
    lines = [f"| {' | '.join(columns)} |", f"|{first}|{'---:|' * len(names)}"]
    return "\n".join(
        [*lines, *(f"| {' | '.join([name, *mean_and_range(rows, names)])} |" for name, rows in groups.items())]
    )
