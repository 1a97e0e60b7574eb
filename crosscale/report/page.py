"""The page of one run: what the template shows, put into words and numbers with units."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL.Image import Image

from crosscale.errors import RequestError
from crosscale.recipe import parse
from crosscale.report.analysis import Analysis, Explained
from crosscale.report.blocks import data_url, drawn_section
from crosscale.report.charts import Series, line_chart
from crosscale.report.records import Run, flat_recipe, repeat_command
from crosscale.runtime import package_version, shown_duration
from crosscale.tasks.sections import Chart
from crosscale.typed import to_plain

_TEMPLATES = Path(__file__).parent / "templates"


def render_run(run: Run, analysis: Analysis | None, warnings: Sequence[str] = (), costs: Any = None) -> str:
    """The page as text.

    Args:
      analysis: of the held-out pictures; None leaves its sections out.
      warnings: sentences for the top of the page.
      costs: the model's `measure.Costs`, where they are known.
    """
    curves, kind = run.curves, run.kind
    sections = analysis.sections if analysis else []
    contents = [*((section.id, section.short) for section in sections), ("curves", "Curves")]
    contents += [("attention", "Attention")] if analysis and analysis.explained else []
    return render(
        "run.html",
        title=f"Run {run.name}",
        subtitle=_subtitle(run),
        contents=[*contents, ("speed", "Speed"), ("recipe", "Recipe"), ("repeat", "Repeat")],
        tiles=_tiles(run, costs),
        further=_further(run),
        warnings=[*_own_warnings(run), *warnings],
        charts=[
            line_chart(
                "Loss",
                [Series("training", curves.loss), Series("held-out pictures", curves.measures.get("loss", []), 1)],
                y_label=kind.loss_label,
            ),
            *_part_charts(run),
            *(measure_chart(chart, run) for chart in kind.charts),
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
        sections=[drawn_section(section) for section in sections],
        explained=[_explained(entry) for entry in analysis.explained] if analysis else [],
        best_epoch="unknown" if run.best_epoch is None else run.best_epoch,
        speed=_speed(run, analysis),
        command=repeat_command(run),
        original_command=run.environment.get("command"),
        versions=list(run.environment.get("versions", {}).items()),
        recipe=_recipe(run.recipe),
        changed=_changed(run.recipe),
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


def measure_chart(chart: Chart, run: Run) -> Markup:
    """A task's chart of its measures over the epochs."""
    lines = []
    for style, name in enumerate(chart.names):
        points = run.curves.measures.get(name, [])
        lines.append(Series(run.kind.measures[name].label, percent(points) if chart.share else points, style))
    shown = "{:.4g} %" if chart.share else "{:.4g}"
    return line_chart(chart.title, lines, y_label=chart.y_label, shown=shown.format)


def percent(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Fractions as percent."""
    return [(x, 100 * y) for x, y in points]


def shown_bytes(value: Any) -> str:
    """A number of bytes with its unit; "not known" for None."""
    if not isinstance(value, int):
        return "not known"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


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
    planned, measures = run.planned_epochs, run.kind.measures
    best, epoch = run.best_measure, "?" if run.best_epoch is None else run.best_epoch
    examples = run.metrics.get("examples")
    worth = f"; {counted}" if (counted := measures[best].counted(run.metrics.get(best), examples)) else ""
    tiles = [(f"best {measures[best].label}", shown_measure(run, best), f"epoch {epoch}{worth}")]
    tiles += [
        (measure.label, shown_measure(run, name), measure.unit)
        for name, measure in measures.items()
        if name in leading_measures(run) - {best}
    ]
    tiles += [
        ("epochs", f"{run.epochs:.4g}", f"of {planned}" if planned else ""),
        ("steps", f"{run.steps:,}", f"of {run.planned_steps:,}" if run.planned_steps else ""),
    ]
    if run.seconds is not None:
        tiles.append(("time", shown_duration(run.seconds), "training and validation of whole epochs"))
    if costs is not None:
        tiles += [
            ("parameters", f"{costs.parameters / 1e6:.2f} M", f"{costs.parameters:,}"),
            ("GMACs", f"{costs.macs / 1e9:.3g}", "10\N{SUPERSCRIPT NINE} per picture"),
        ]
    return [{"name": name, "value": value, "note": note} for name, value, note in tiles]


def leading_measures(run: Run) -> set[str]:
    """Those that people look for first: the one that chose the weights, the loss, and those with a chart."""
    return {run.best_measure, "loss", *(name for chart in run.kind.charts for name in chart.names)}


def _further(run: Run) -> str:
    """All other measures of the best validation, in a sentence; "" where there are none."""
    return "; ".join(
        f"{measure.label} {shown_measure(run, name)}{measure.unit and f' {measure.unit}'}"
        for name, measure in run.kind.measures.items()
        if name not in leading_measures(run) and run.metrics.get(name) is not None
    )


def shown_measure(run: Run, name: str) -> str:
    """A number of the run's best validation, as its task reads it; a dash where there is none."""
    value = run.metrics.get(name)
    return run.kind.measures[name].shown(value if isinstance(value, int | float) else None)


def _part_charts(run: Run) -> list[Markup]:
    """Each part of a training loss that has several."""
    parts = run.curves.parts
    if not parts:
        return []
    lines = [Series(name, points, style) for style, (name, points) in enumerate(parts.items())]
    return [line_chart("Parts of the training loss", lines, y_label=run.kind.loss_label)]


def _explained(entry: Explained) -> dict[str, Any]:
    folded = entry.folded and _sheet(entry.folded)
    return {"id": entry.id, "truth": entry.truth, "sheet": _sheet(entry.figure), "folded": folded}


def _sheet(on_light_and_dark: Sequence[Image]) -> dict[str, Any]:
    light, dark = on_light_and_dark
    return {"light": data_url(light), "dark": data_url(dark), "width": light.width, "height": light.height}


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


def _changed(recipe: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value, default) of what differs from the defaults, except the class names, which the data gives."""
    if not recipe:
        return []
    try:
        task = (recipe.get("task") or {}).get("name")
        defaults = flat_recipe(to_plain(asdict(parse({"task": {"name": task}} if task else {}))))
    except RequestError:  # a task of a later version
        return []
    found = flat_recipe(recipe)
    return [
        (key, shown_value(value), shown_value(defaults[key]) if key in defaults else "")
        for key, value in found.items()
        if key != "data.classes" and (key not in defaults or shown_value(value) != shown_value(defaults[key]))
    ]


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
