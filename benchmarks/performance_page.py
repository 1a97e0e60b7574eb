"""Writes the tables and plots of docs/performance.md from the newest results in benchmarks/results.

    python -m benchmarks.performance_page [--results FOLDER] [--page FILE]

A result is a file `YYYY-MM-DD-<what>.json` of `crosscale bench --output`. Of every mode the files of the newest day
count, all of them; those of segmentations (`*-segment.json`) by themselves. The page's own words stay: only what stands
between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced. `sh benchmarks/run_all.sh` makes all results.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosscale.benchmark.plots import plot
from crosscale.cli.bench_tables import growth_cells, start_up_cells

ROOT = Path(__file__).parent.parent
SPEED = [
    "model",
    "batch",
    "ours, images/s",
    "eager",
    "compiled",
    "ratio",
    "range",
    "memory",
    "matmul peak, ours",
    "theirs",
]
SEGMENT = "_segment"  # behind the mode of what was measured on segmentations
ENGINES = ("onnxruntime", "openvino")  # columns where a result has them
FIRST = ["model", "batch", "ours, cold s", "warm s", "compiled, cold s", "warm s"]
DETECTION = ["operation", "ours, best ms", "median", "torchvision, best ms", "median", "apart"]
SEGMENTATION = [
    "model",
    "forward, ms",
    "metric, trained",
    "metric, random weights",
    "training, images/s",
    "waiting for data",
]
GROWTH = ["series", "at", "GMACs", "ms", "MB of activations", "MACs grow", "time grows", "activations grow"]


def newest(folder: Path) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """By mode: the day, and its results in the order of their names."""
    found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("????-??-??-*.json")):
        day, result = path.name[:10], json.loads(path.read_text(encoding="utf-8"))
        if "mode" not in result:
            continue
        mode = result["mode"] + (SEGMENT if path.stem.endswith("-segment") else "")
        old_day, results = found.get(mode, (day, []))
        found[mode] = (day, [*results, result] if day == old_day else [result])
    return found


def merged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several results of a mode as one."""
    return {**results[0], **{key: [row for one in results for row in one.get(key, [])] for key in ("rows", "ratios")}}


def speed_tables(result: dict[str, Any]) -> str:
    """Throughputs with ratios, then the first calls; a row per model, batch size and measurement."""
    speed, first = [], []
    engines = [name for name in ENGINES if any(row["who"] == name for row in result["rows"])]
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    for case in sorted(cases(result), key=lambda case: (models.index(case["model"]), case["batch_size"])):
        rows = {row["who"].rpartition(" ")[2]: row for row in case["rows"] if not row["error"]}
        ours, eager, compiled = (rows.get(name) for name in ("crosscale", "eager", "compiled"))
        assert ours is not None
        head = [case["model"], str(case["batch_size"])]
        best = next((row for row in case["ratios"] if row["against"] == "best"), None)
        theirs = max((row["matmul_share"] for row in (eager, compiled) if row), default=None)
        rates = [pace(row["images_per_second"]) if row else "" for row in (ours, eager, compiled)]
        others = [pace(rows[name]["images_per_second"]) if name in rows else "" for name in engines]
        ratio = ["", "", ""]
        if best:
            memory = "" if best["memory"] is None else f"{best['memory']:.2f}"
            ratio = [f"**{best['ratio']:.2f}**", f"{best['low']:.2f}–{best['high']:.2f}", memory]
        shares = [percent(ours["matmul_share"]), percent(theirs)]
        speed.append([*head, *rates, *others, *ratio, *shares])
        first.append([*head, *(seconds(row, key) for row in (ours, compiled) for key in ("cold", "warm"))])
    return f"{table([*SPEED[:5], *engines, *SPEED[5:]], speed)}\n\nFirst call, in seconds:\n\n{table(FIRST, first)}"


def cases(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows in groups of one measurement, which ours begins, with the ratios that belong to each."""
    groups: list[dict[str, Any]] = []
    for row in result["rows"]:
        if row["who"] == "crosscale":
            groups.append({"model": row["model"], "batch_size": row["batch_size"], "rows": [], "ratios": []})
        groups[-1]["rows"].append(row)
    waiting = list(result["ratios"])
    for group in groups:
        # Each measurement's ratios end with the one against the better peer.
        while waiting and (waiting[0]["model"], waiting[0]["batch_size"]) == (group["model"], group["batch_size"]):
            group["ratios"].append(waiting.pop(0))
            if group["ratios"][-1]["against"] == "best":
                break
    return groups


def pace(rate: float) -> str:
    """Images per second."""
    return f"{rate:,.1f}" if rate >= 10 else f"{rate:.2f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def seconds(row: dict[str, Any] | None, key: str) -> str:
    value = row and row[f"first_call_{key}"]
    return f"{value:.1f}" if value is not None else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; numbers stand on the right."""
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def detection_cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row per operation of detection: both sides' times, and how far their results are apart."""
    keys = [f"{who}_{which}_ms" for who in ("crosscale", "torchvision") for which in ("best", "median")]
    apart = ["other rim" if row["apart"] is None else f"{row['apart']:.1g}" for row in rows]
    return [[row["what"], *(f"{row[key]:.2f}" for key in keys), far] for row, far in zip(rows, apart, strict=True)]


def segmentation_cells(result: dict[str, Any]) -> list[str]:
    """What the metric of a segmentation costs beside the forward, and how long its training step waits for pictures."""
    metric, feeding = result["metric"], result["feeding"]
    shares = [f"{100 * share:.1f} %" for share in (metric["sure"], metric["unsure"], feeding["data_wait"])]
    trained = pace(feeding["images_per_second"])
    return [result["model"], f"{metric['forward_ms']:,.0f}", *shares[:2], trained, shares[2]]


def machine_line(day: str, results: Sequence[dict[str, Any]]) -> str:
    machine = results[0]["machine"]
    versions = {name: number for one in results for name, number in one["machine"]["versions"].items()}
    shown = ("jax", "flax", "torch", "torchvision", "timm", *ENGINES)
    names = ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)
    loads = [one["machine"][key] for one in results for key in ("load_before", "load_after")]
    known = [load for load in loads if load is not None]
    load = f"; load average {min(known):.1f} to {max(known):.1f}" if known else ""
    devices = ", ".join(machine["devices"]) or "cpu"
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] / 1e9:.0f} GB"
    return f"{day}. {machine['processor']}, {machine['cores']} cores{memory}; device: {devices}; {names}{load}."


def section(mode: str, day: str, results: Sequence[dict[str, Any]], images: Path) -> str:
    """What stands between the markers of a mode; writes its plot."""
    result, line = merged(results), machine_line(day, results)
    if mode == "start_up":
        return f"{line}\n\n{table(['', 'cold s', 'warm s', 'cache off s'], start_up_cells(result))}"
    if mode == "segmentation":
        return f"{line}\n\n{table(SEGMENTATION, [segmentation_cells(one) for one in results])}"
    if mode == "detection":
        return f"{line}\n\n{table(DETECTION, detection_cells(result['rows']))}"
    if mode.endswith(SEGMENT):
        return f"{line}\n\n{speed_tables(result)}"
    picture = images / f"performance_{mode}.png"
    plot(result, picture)
    body = table(GROWTH, growth_cells(result["rows"])) if mode == "growth" else speed_tables(result)
    return f"{line}\n\n{body}\n\n![{mode}](images/{picture.name})"


def write_page(results: Path, page: Path) -> list[str]:
    """Replaces what lies between the markers; returns the modes that were written."""
    text, images = page.read_text(encoding="utf-8"), page.parent / "images"
    images.mkdir(exist_ok=True)
    written = []
    for mode, (day, found) in newest(results).items():
        pattern = re.compile(rf"(<!-- begin {mode} -->\n).*?(<!-- end {mode} -->)", re.DOTALL)
        if not pattern.search(text):
            continue
        body = section(mode, day, found, images)
        text = pattern.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)
        written.append(mode)
    page.write_text(text, encoding="utf-8")
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    args = parser.parse_args()
    written = write_page(args.results, args.page)
    print(f"{args.page.name}: {', '.join(written) or 'no results'}")
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
