"""What the parts share: arguments, results that are written at once, timing, and the table at the end."""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

BEGAN = time.perf_counter()

# Both families at toy size, for --smoke.
TOYS: dict[str, dict[str, Any]] = {
    "crossvit": {
        "img_size": [32, 32],
        "patch_size": [4, 8],
        "embed_dim": [16, 32],
        "depth": [[1, 1, 1]],
        "num_heads": [2, 2],
        "mlp_ratio": [2.0, 2.0, 1.0],
    },
    "crossformer": {
        "img_size": 64,
        "embed_dim": 16,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "group_size": [4, 4, 2, 2],
        "interval": [2, 2, 1, 1],
    },
}


def arguments(description: str, models: Sequence[str], **extra: Any) -> argparse.Namespace:
    """The options that every part takes.

    Args:
      description: of the part.
      models: presets by default, most valuable first.
      **extra: further options as name=default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="toy sizes, to see on a processor that all of it runs")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--models", type=lambda text: text.split("+"), default=list(models), help="PRESET+PRESET+...")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds that the part may take")
    parser.add_argument("--batch-size", type=int, default=256)
    for name, default in extra.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    if given.smoke:
        given.batch_size = 4
        given.models = list(dict.fromkeys("crossformer" if "former" in name else "crossvit" for name in given.models))
    return given


def left(given: argparse.Namespace) -> float:
    """Seconds until the part's limit."""
    return float(given.limit - (time.perf_counter() - BEGAN))


class Results:
    """Rows, written to the file after each."""

    def __init__(self, path: Path, **about: Any) -> None:
        self.path, self.about, self.rows = path, about, list[dict[str, Any]]()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        self.path.write_text(json.dumps({**self.about, "rows": self.rows}, indent=1) + "\n")
        shown = (f"{name}={_short(value)}" for name, value in row.items() if not isinstance(value, list | dict))
        print("  " + " ".join(shown), flush=True)

    def table(self, *columns: str) -> None:
        """Prints these columns of all rows; what a row lacks is left empty, and an error stands at its end."""
        cells = [[_short(row.get(name, "")) for name in columns] for row in self.rows]
        widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
        print(f"== {self.path.stem} {json.dumps(self.about, default=str)[:300]}")
        for line, row in zip([list(columns), *cells], [{}, *self.rows], strict=True):
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print(f"{text}  {row.get('error', '')[:100]}".rstrip(), flush=True)


def _short(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def told(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def timed(step: Callable[[], None], wait: Callable[[], None], smoke: bool) -> dict[str, float]:
    """Seconds of one step, asked for in rows of steps and waited for at the end of each row.

    Args:
      step: asks for one step.
      wait: returns when all that was asked for is done.

    Returns:
      "best" and "median" over the rows, and the "steps" in all.
    """
    for _ in range(1 if smoke else 3):
        step()
    wait()
    began = time.perf_counter()
    step()
    wait()
    count = 1 if smoke else min(max(math.ceil(0.5 / (time.perf_counter() - began)), 5), 100)
    samples = []
    for _ in range(2 if smoke else 5):
        began = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        samples.append((time.perf_counter() - began) / count)
    return {"best": min(samples), "median": median(samples), "steps": float(count * len(samples))}
