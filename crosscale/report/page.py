"""The page of one run: what the template shows, put into words and numbers with units."""

import base64
import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from crosscale.artifact import package_version
from crosscale.report.analysis import Analysis, Mistake
from crosscale.report.charts import Series, line_chart
from crosscale.report.records import Run, repeat_command

TABLE_CLASSES = 25  # up to here the confusion matrix is a table of numbers, beyond a picture
MAX_CONFUSED = 30
THUMBNAIL = 160  # longest side in pixels

_TEMPLATES = Path(__file__).parent / "templates"


def render_run(run: Run, analysis: Analysis | None, warnings: Sequence[str] = (), costs: Any = None) -> str:
    """The page as text.

    Args:
      analysis: of the held-out pictures; None leaves its sections out.
      warnings: sentences for the top of the page.
      costs: the model's `measure.Costs`, where they are known.
    """
    curves = run.curves
    found = {} if analysis is None else _analysis_parts(analysis)
    names = ["curves", *(("classes", "confusion", "mistakes") if analysis else ())]
    names += ["attention"] if analysis and analysis.explained else []
    return render(
        "run.html",
        title=f"Run {run.name}",
        subtitle=_subtitle(run),
        sections=[(name, name.capitalize()) for name in (*names, "speed", "repeat", "recipe")],
        tiles=_tiles(run, costs),
        warnings=[*_own_warnings(run), *warnings],
        charts=[
            line_chart(
                "Loss",
                [Series("training", curves.loss), Series("held-out pictures", curves.val_loss, 1)],
                y_label="cross-entropy, nats",
            ),
            line_chart(
                "Accuracy on held-out pictures",
                [Series("top-1", percent(curves.top1)), Series("top-5", percent(curves.top5), 1)],
                y_label="accuracy, %",
                shown="{:.4g} %".format,
            ),
            line_chart("Learning rate", [Series("learning rate", curves.lr)], y_label="learning rate", from_zero=True),
            line_chart(
                "Waiting for data",
                [Series("waiting for data", percent(curves.data_wait))],
                y_label="share of the time, %",
                shown="{:.3g} %".format,
                from_zero=True,
            ),
        ],
        analysis=analysis,
        best_epoch="unknown" if run.best_epoch is None else run.best_epoch,
        speed=_speed(run, analysis),
        command=repeat_command(run),
        original_command=run.environment.get("command"),
        versions=list(run.environment.get("versions", {}).items()),
        recipe=_recipe(run.recipe),
        **found,
    )


def render(template: str, **values: Any) -> str:
    """A template with the style, script and date that all pages share."""
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
            script=Markup((_TEMPLATES / "script.js").read_text(encoding="utf-8")),
            version=package_version(),
            written=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            **values,
        )
    )


def percent(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Fractions as percent."""
    return [(x, 100 * y) for x, y in points]


def shown_bytes(value: Any) -> str:
    """A number of bytes with its unit; "not known" for None."""
    if not isinstance(value, int):
        return "not known"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def shown_share(value: Any) -> str:
    """A fraction as percent; a dash where there is none."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return f"{100 * value:.2f} %" if known else "\N{EN DASH}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _subtitle(run: Run) -> str:
    trained = run.best.model if run.best is not None else "unknown model"
    model = run.recipe.get("model", {}).get("name") or trained
    data = run.recipe.get("data", {}).get("dir") or "unknown data"
    return f"{model} on {data}"


def _own_warnings(run: Run) -> list[str]:
    found = []
    if run.skipped_steps:
        found.append(f"{run.skipped_steps} steps were left out because a loss or gradient was not finite.")
    if not run.recipe:
        found.append("This folder has no recipe.yaml.")
    return found


def _tiles(run: Run, costs: Any) -> list[dict[str, Any]]:
    metrics, planned = run.metrics, run.planned_epochs
    loss, epoch = metrics.get("loss"), "?" if run.best_epoch is None else run.best_epoch
    tiles = [
        ("best top-1", shown_share(metrics.get("top1")), f"epoch {epoch}"),
        ("top-5", shown_share(metrics.get("top5")), "at the same time"),
        ("loss", f"{loss:.4f}" if isinstance(loss, float) else "\N{EN DASH}", "nats, at the same time"),
        ("epochs", f"{run.epochs:.4g}", f"of {planned}" if planned else ""),
        ("steps", f"{run.steps:,}", ""),
    ]
    if costs is not None:
        tiles += [
            ("parameters", f"{costs.parameters / 1e6:.2f} M", f"{costs.parameters:,}"),
            ("GMACs", f"{costs.macs / 1e9:.3g}", "10\N{SUPERSCRIPT NINE} per picture"),
        ]
    return [{"name": name, "value": value, "note": note} for name, value, note in tiles]


def _speed(run: Run, analysis: Analysis | None) -> list[tuple[str, str]]:
    curves, environment = run.curves, run.environment
    rows = []
    for name, points in (("training", curves.rate), ("validation", curves.val_rate)):
        if points:
            middle = float(np.median([value for _, value in points]))
            rows.append((name, f"{middle:,.1f} images/s (median of {len(points)})"))
    if curves.data_wait:
        mean = sum(value for _, value in curves.data_wait) / len(curves.data_wait)
        rows.append(("waiting for data", f"{100 * mean:.1f} % of the training time"))
    if analysis is not None and math.isfinite(analysis.images_per_second):
        rows.append(("the pass for this page", f"{analysis.images_per_second:,.1f} images/s, loading included"))
    if environment:
        rows += [
            ("devices", f"{environment.get('devices', '?')} x {environment.get('device', '?')}"),
            ("processes", str(environment.get("processes", "?"))),
            ("host", f"{environment.get('platform', '?')}, {environment.get('cpus', '?')} CPUs"),
            ("peak memory, host", shown_bytes(environment.get("peak_host_bytes"))),
            ("peak memory, device", shown_bytes(environment.get("peak_device_bytes"))),
        ]
    return rows


def _recipe(recipe: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    sections = []
    for section, values in recipe.items():
        rows = values.items() if isinstance(values, Mapping) else [("", values)]
        sections.append((str(section), [(str(name), shown_value(value)) for name, value in rows]))
    return sections


def shown_value(value: Any) -> str:
    """A recipe's value as YAML would write it on one line, long lists cut."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else value
    return text if len(text) <= 300 else text[:297] + "..."


def _analysis_parts(analysis: Analysis) -> dict[str, Any]:
    names = analysis.classes
    rows = [
        {
            "name": name,
            "right": right,
            "count": count,
            "percent": f"{100 * right / count:.1f}" if count else "0",
            "shown": f"{100 * right / count:.1f} %" if count else "no pictures",
        }
        for name, (right, count) in sorted(
            zip(names, analysis.per_class, strict=True), key=lambda row: _lowest_first(*row[1])
        )
    ]
    small = len(names) <= TABLE_CLASSES
    return {
        "classes": names,
        "class_rows": rows,
        "confused": [(names[t], names[p], n) for t, p, n in analysis.confused(MAX_CONFUSED)],
        "matrix_rows": _matrix_rows(analysis) if small else None,
        "matrix_image": None if small else _matrix_image(analysis.confusion),
        "matrix_data": None if small else _matrix_data(analysis),
        "mistakes": [_mistake(m, names) for m in analysis.mistakes],
        "explained": [
            {
                "id": e.id,
                "truth": e.truth,
                "image": data_url(e.figure),
                "width": e.figure.width,
                "height": e.figure.height,
            }
            for e in analysis.explained
        ],
        "attention_note": "crosscale explain draws the same for any picture.",
    }


def _lowest_first(right: int, count: int) -> tuple[bool, float]:
    """Sorts by accuracy, classes without a picture last."""
    return count == 0, right / max(count, 1)


def _matrix_rows(analysis: Analysis) -> list[tuple[str, list[dict[str, Any]]]]:
    rows = []
    for t, (name, counts) in enumerate(zip(analysis.classes, analysis.confusion, strict=True)):
        total = max(int(counts.sum()), 1)
        cells = [
            {
                "count": int(n),
                "percent": f"{85 * n / total:.0f}",
                "wrong": bool(n) and p != t,
                "taken": analysis.classes[p],
            }
            for p, n in enumerate(counts)
        ]
        rows.append((name, cells))
    return rows


def _matrix_image(confusion: np.ndarray) -> str:
    """One pixel a cell, or a whole number of them; a single mistake among a thousand is still seen."""
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shade = np.where(confusion > 0, 0.25 + 0.75 * np.sqrt(share), 0.0)[..., None]
    right = np.eye(len(confusion), dtype=bool)[..., None]
    colour = np.where(right, np.array([29.0, 95, 208]), np.array([194.0, 65, 12]))
    pixels = np.rint(255 + shade * (colour - 255)).astype(np.uint8)
    image = Image.fromarray(pixels)
    factor = max(1, 720 // len(confusion))
    return data_url(image.resize((image.width * factor,) * 2, Image.Resampling.NEAREST), "PNG")


def _matrix_data(analysis: Analysis) -> Markup:
    cells = [[int(t), int(p), int(analysis.confusion[t, p])] for t, p in np.argwhere(analysis.confusion)]
    text = json.dumps({"classes": analysis.classes, "cells": cells}, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # a class name must not end the script element


def _mistake(mistake: Mistake, names: Sequence[str]) -> dict[str, Any]:
    image = Image.fromarray(mistake.image[..., 0] if mistake.image.shape[-1] == 1 else mistake.image[..., :3])
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return {
        "id": mistake.id,
        "truth": names[mistake.truth],
        "predicted": names[mistake.predicted],
        "shown": f"{100 * mistake.probability:.1f} % sure",
        "image": data_url(image),
        "width": image.width,
        "height": image.height,
        "tiny": max(image.size) < THUMBNAIL // 2,
    }


def data_url(image: Image.Image, kind: str = "WEBP") -> str:
    """The picture inside the page."""
    buffer = BytesIO()
    image.save(buffer, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
