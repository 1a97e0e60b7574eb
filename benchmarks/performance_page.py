"""The tables and plots of docs/performance.md, from the newest results in benchmarks/results/.

python -m benchmarks.performance_page
"""

import json
import sys
from pathlib import Path
from typing import Any

from crosscale.benchmark.plots import plot
from crosscale.cli.bench_tables import growth_cells, ratio_cells, speed_cells

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("infer-crossvit", "infer-crossformer", "train-crossvit", "train-crossformer", "growth")


def newest(part: str) -> Path | None:
    """The latest dated result of one part."""
    return max(RESULTS.glob(f"????-??-??-{part}.json"), default=None)


def table(columns: list[str], rows: list[list[str]], text_columns: int) -> list[str]:
    rule = ["---" if index < text_columns else "---:" for index in range(len(columns))]
    return [f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)]


def section(part: str, file: Path) -> list[str]:
    """One result as Markdown: where it was measured, its tables, its plot."""
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in sorted(machine["versions"].items()))
    picture = f"images/performance_{part.replace('-', '_')}.png"
    plot(result, PAGE.parent / picture)
    lines = [
        f"`{file.relative_to(ROOT)}`: {machine['processor']}, {machine['cores']} cores; {versions}; "
        f"load {machine['load_before']} before and {machine['load_after']} after.",
        "",
    ]
    if result["mode"] == "growth":
        columns = ["series", "", "GMACs", "ms", "MB of activations", "MACs grow", "time grows", "activations grow"]
        lines += table(columns, growth_cells(result["rows"]), 2)
    else:
        columns = ["model", "batch", "", "images/s", "ms/step", "range", "cold s", "warm s", "MB", "of matmul peak"]
        lines += [*table(columns, [speed_cells(row) for row in result["rows"]], 3), ""]
        lines += [
            f"{row['model']}, batch {row['batch_size']}: {row['who']} is missing ({row['error']})  "
            for row in result["rows"]
            if row["error"]
        ]
        columns = ["model", "batch", "times as fast as", "ratio", "range", "memory"]
        lines += ["", *table(columns, [ratio_cells(row) for row in result["ratios"]], 3)]
    return [*lines, "", f"![{part}]({picture})"]


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    for part in PARTS:
        begin = f"<!-- {part}: written by python -m benchmarks.performance_page -->"
        end = f"<!-- end of {part} -->"
        before, rest = text.split(begin)
        file = newest(part)
        lines = ["Not measured yet."] if file is None else section(part, file)
        text = f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}" + rest.split(end)[1]
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
