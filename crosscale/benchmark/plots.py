"""The results of a measurement as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
_COLOURS = ("#1f6f8b", "#e0a458", "#9c4a4a", "#6b8f71", "#7a6c9d", "#5c5c5c")


def plot(result: Result, path: Path) -> None:
    """Writes a PNG or SVG, by the path's ending.

    Args:
      result: of `speed.measure` or `growth.measure`.
    """
    from matplotlib.figure import Figure

    if result["mode"] == "growth":
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        _growth(figure, result["rows"])
    else:
        groups = list(dict.fromkeys((row["model"], row["batch_size"]) for row in result["rows"]))
        figure = Figure(figsize=(8, 1.2 + 0.62 * len(groups)), layout="constrained")
        _bars(figure.subplots(), result, groups)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


def _bars(axes: Any, result: Result, groups: Sequence[tuple[str, int]]) -> None:
    """A bar of images/s per contender, a group per model and batch size; whiskers from the slowest to the fastest."""
    contenders = list(dict.fromkeys(row["who"] for row in result["rows"]))
    height = 0.8 / len(contenders)
    for at, who in enumerate(contenders):
        rows = [row for row in result["rows"] if row["who"] == who and not row["error"]]
        places = [
            groups.index((row["model"], row["batch_size"])) + (at - (len(contenders) - 1) / 2) * height for row in rows
        ]
        rates = [row["images_per_second"] for row in rows]
        around = [
            [rate * (1 - row["ms"] / row["ms_high"]) for rate, row in zip(rates, rows, strict=True)],
            [rate * (row["ms"] / row["ms_low"] - 1) for rate, row in zip(rates, rows, strict=True)],
        ]
        axes.barh(places, rates, height, xerr=around, label=who, color=_COLOURS[at % len(_COLOURS)], ecolor="#333333")
    axes.set_yticks(range(len(groups)), [f"{model}, batch {batch}" for model, batch in groups])
    axes.invert_yaxis()
    axes.set_xlabel("images/s" if result["mode"] == "infer" else "images/s of training")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _growth(figure: Any, rows: Sequence[Result]) -> None:
    """Time and memory against multiply-accumulates, both doubling; a dotted line is proportional growth."""
    series = list(dict.fromkeys(row["series"] for row in rows if row["series"] != "branches"))
    for axes, key, scale, label in zip(
        figure.subplots(1, 2), ("ms", "temporary_bytes"), (1.0, 1e-6), ("ms", "MB of activations"), strict=True
    ):
        for at, name in enumerate(series):
            points = [row for row in rows if row["series"] == name]
            macs, values = [row["macs"] / 1e9 for row in points], [row[key] * scale for row in points]
            colour = _COLOURS[at % len(_COLOURS)]
            axes.loglog(macs, values, marker="o", ms=4, label=name, color=colour)
            axes.loglog(macs, [values[0] * m / macs[0] for m in macs], ":", lw=1, color=colour)
        axes.set_xlabel("GMACs")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
