"""Pictures of the bench's results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]


def plot(result: Result, file: Path) -> None:
    """Draws a result of --mode infer, train or growth into a PNG or SVG."""
    if result["mode"] == "growth":
        _growth(result["rows"], file)
    else:
        _speed(result, file)


def _speed(result: Result, file: Path) -> None:
    """Images per second of every contender, a group of bars for each model and batch size."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if not row["error"]]
    cases = list(dict.fromkeys((row["model"], row["batch_size"]) for row in rows))
    contenders = list(dict.fromkeys(row["who"] for row in rows))
    figure = Figure(figsize=(max(5.0, 1.1 * len(cases) + 2), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(contenders)
    for index, who in enumerate(contenders):
        own = [row for row in rows if row["who"] == who]
        places = [
            cases.index((row["model"], row["batch_size"])) + (index - (len(contenders) - 1) / 2) * width for row in own
        ]
        rates = [row["images_per_second"] for row in own]
        slow = [rate - 1e3 * row["batch_size"] / row["ms_high"] for rate, row in zip(rates, own, strict=True)]
        fast = [1e3 * row["batch_size"] / row["ms_low"] - rate for rate, row in zip(rates, own, strict=True)]
        axes.bar(places, rates, width, label=who, yerr=(slow, fast), error_kw={"elinewidth": 0.8})
    axes.set_xticks(range(len(cases)), [f"{model}\nbatch {batch}" for model, batch in cases], fontsize=7)
    axes.set_ylabel("images/s")
    what = "inference" if result["mode"] == "infer" else "training step"
    axes.set_title(
        f"{what}, {result['settings']['dtype']}, {result['machine']['processor'].split(' (')[0]}", fontsize=9
    )
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def _growth(rows: Sequence[Result], file: Path) -> None:
    """Time and activation memory over multiply-accumulates, a line for each series, on logarithmic scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, key, scale, label in zip(
        figure.subplots(1, 2), ("ms", "temporary_bytes"), (1.0, 1e-6), ("ms", "MB of activations"), strict=True
    ):
        for series in dict.fromkeys(row["series"] for row in rows):
            own = [row for row in rows if row["series"] == series]
            axes.plot([row["macs"] / 1e9 for row in own], [scale * row[key] for row in own], "o-", label=series, ms=3)
        axes.set(xscale="log", yscale="log", xlabel="GMACs", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=120)
