"""Several runs on one page: their curves over each other, what differs, and published models beside them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crosscale.measure import Costs
from crosscale.report.charts import Mark, Series, line_chart, scatter
from crosscale.report.page import leading_measures, percent, render, shown_measure, shown_value
from crosscale.report.published import PUBLISHED_MEASURE, published_rows, series_names
from crosscale.report.records import Points, Run, flat_recipe
from crosscale.runs.folds import spread as over_runs
from crosscale.runtime import shown_duration
from crosscale.tasks.measure import Measure
from crosscale.tasks.task import Task

MISSING = "\N{EN DASH}"
_WORDNET = re.compile(r"n\d{8}")  # what ImageNet calls a class


def render_comparison(runs: Sequence[Run], costs: Sequence[Costs | None], *, spread: bool = False) -> str:
    """The page as text.

    Args:
      costs: of the runs' models, in their order; None where a model cannot be built.
      spread: the results end with the measures' mean and deviation over the runs.
    """
    names = distinct_names(runs)
    warnings = []
    data = {str(run.recipe.get("data", {}).get("dir")) for run in runs}
    kinds = list(dict.fromkeys(run.kind for run in runs))
    if len(kinds) > 1:
        learnt = ", ".join(kind.name for kind in kinds)
        warnings.append(f"these runs learn different things ({learnt}), so their numbers do not compare.")
    elif len(data) > 1:
        warnings.append("these runs were trained on different data, so their numbers do not compare directly.")
    measures = {name: measure for kind in kinds for name, measure in kind.measures.items()}
    told = set().union(*map(leading_measures, runs))
    leading = {name: measure for name, measure in measures.items() if name in told}
    further = {name: measure for name, measure in measures.items() if name not in told}
    return render(
        "compare.html",
        title=f"{len(runs)} runs side by side",
        names=names,
        warnings=warnings,
        result_columns=("run", *_labels(leading), *_COLUMNS, *_labels(further)),
        results=[
            *(_result(name, run, cost, leading, further) for name, run, cost in zip(names, runs, costs, strict=True)),
            *(_spread(runs, leading, further) if spread else []),
        ],
        winners=_winners(runs, leading, 1) | _winners(runs, further, 1 + len(leading) + len(_COLUMNS)),
        held_out=_held_out(runs),
        charts=_charts(names, runs, kinds),
        differences=recipe_differences(runs),
        scatters=_scatters(names, runs, costs),
        published=published_rows(),
    )


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    paths = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return names


def recipe_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(key, its value in each run) of the recipe keys that are not the same in all runs."""
    flat = [flat_recipe(run.recipe) for run in runs]
    keys = sorted({key for recipe in flat for key in recipe})
    rows = [(key, [shown_value(recipe[key]) if key in recipe else MISSING for recipe in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


_COLUMNS = ("pictures", "best epoch", "epochs", "time", "parameters, M", "GMACs", "images/s")


def _labels(measures: Mapping[str, Measure]) -> list[str]:
    return [measure.label_with_unit for measure in measures.values()]


def _winners(runs: Sequence[Run], measures: Mapping[str, Measure], first: int) -> set[tuple[int, int]]:
    """(row, column) of the best number of each measure, where one is better and the runs differ.

    Args:
      first: the column of the first measure.
    """
    found = set()
    for column, (name, measure) in enumerate(measures.items(), first):
        values = [run.metrics.get(name) if name in run.kind.measures else None for run in runs]
        known = [value for value in values if isinstance(value, int | float)]
        if measure.higher_is_better is None or len(set(known)) < 2:
            continue
        best = max(known) if measure.higher_is_better else min(known)
        found |= {(row, column) for row, value in enumerate(values) if value == best}
    return found


def _held_out(runs: Sequence[Run]) -> str:
    """Whether the runs were measured on the same held-out pictures, as far as they have written that down."""
    listings = [(run.environment.get("data") or {}).get("val") or {} for run in runs]
    if not all(listing.get("digest") for listing in listings):
        return "The runs do not say whether they were measured on the same held-out pictures."
    if any(listing != listings[0] for listing in listings):
        return "The runs were measured on different held-out pictures."
    return f"All runs were measured on the same {listings[0]['images']:,} held-out pictures."


def _result(
    name: str, run: Run, costs: Costs | None, leading: Mapping[str, Measure], further: Mapping[str, Measure]
) -> list[str]:
    def shown(measures: Mapping[str, Measure]) -> list[str]:
        return [shown_measure(run, key) if key in run.kind.measures else MISSING for key in measures]

    rates = sorted(value for _, value in run.curves.rate)
    return [
        name,
        *shown(leading),
        f"{int(examples):,}" if isinstance(examples := run.metrics.get("examples"), int | float) else MISSING,
        MISSING if run.best_epoch is None else str(run.best_epoch),
        f"{run.epochs:.4g}",
        MISSING if run.seconds is None else shown_duration(run.seconds),
        f"{costs.parameters / 1e6:.2f}" if costs else MISSING,
        f"{costs.macs / 1e9:.3g}" if costs else MISSING,
        f"{rates[len(rates) // 2]:,.1f}" if rates else MISSING,
        *shown(further),
    ]


def _spread(runs: Sequence[Run], leading: Mapping[str, Measure], further: Mapping[str, Measure]) -> list[list[str]]:
    """Rows of the measures' mean and of their standard deviation over the runs."""
    found = over_runs([run.metrics for run in runs], [*leading, *further])

    def shown(name: str, measures: Mapping[str, Measure]) -> list[str]:
        return [measure.shown(found[name][key]) for key, measure in measures.items()]

    rest = [MISSING] * len(_COLUMNS)
    return [[name, *shown(name, leading), *rest, *shown(name, further)] for name in found]


def _charts(names: Sequence[str], runs: Sequence[Run], kinds: Sequence[type[Task]]) -> list[Any]:
    def lines(curve: Callable[[Run], Points], scale: bool = False) -> list[Series]:
        found: list[Series] = []
        for i, (name, run) in enumerate(zip(names, runs, strict=True)):
            points = curve(run)
            found.append(Series(name, percent(points) if scale else points, i))
        return found

    def measured(name: str) -> Callable[[Run], Points]:
        return lambda run: run.curves.measures.get(name, [])

    in_percent = "{:.4g} %".format
    loss_label = " or ".join(dict.fromkeys(kind.loss_label for kind in kinds))
    main = [
        line_chart(
            f"{kind.measures[chart.names[0]].label.capitalize()} on held-out pictures",
            lines(measured(chart.names[0]), chart.share),
            y_label=chart.y_label,
            shown=in_percent if chart.share else "{:.4g}".format,
        )
        for kind in kinds
        for chart in kind.charts
    ]
    return [
        *main,
        line_chart("Loss on held-out pictures", lines(measured("loss")), y_label=loss_label),
        line_chart("Training loss", lines(lambda run: run.curves.loss), y_label=loss_label),
        line_chart("Learning rate", lines(lambda run: run.curves.lr), y_label="learning rate", from_zero=True),
        line_chart("Training speed", lines(lambda run: run.curves.rate), y_label="images/s", from_zero=True),
        line_chart(
            "Waiting for data",
            lines(lambda run: run.curves.data_wait, True),
            y_label="share of the time, %",
            shown=in_percent,
            from_zero=True,
        ),
    ]


def _on_imagenet(run: Run) -> bool:
    """Whether a run tells ImageNet-1k's own 1,000 classes apart, by the names of its folders."""
    return run.best is not None and len(set(filter(_WORDNET.fullmatch, run.best.labels))) == 1000 == len(
        run.best.labels
    )


def _scatters(names: Sequence[str], runs: Sequence[Run], costs: Sequence[Costs | None]) -> list[Any]:
    """The runs on ImageNet's classes beside published models; nothing where no run is: other numbers do not compare."""
    if not any(map(_on_imagenet, runs)):
        return []
    rows = published_rows()
    order = series_names()
    by_macs = [Mark(r.name, r.series, r.gmacs, r.accuracy, 1 + order.index(r.series)) for r in rows]
    by_params = [Mark(r.name, r.series, r.params, r.accuracy, 1 + order.index(r.series)) for r in rows]
    for name, run, cost in zip(names, runs, costs, strict=True):
        accuracy = run.metrics.get(PUBLISHED_MEASURE)
        if cost is not None and isinstance(accuracy, int | float) and _on_imagenet(run):
            by_macs.append(Mark(name, "these runs", cost.formula_macs / 1e9, 100 * accuracy, 0, True))
            by_params.append(Mark(name, "these runs", cost.parameters / 1e6, 100 * accuracy, 0, True))
    shown = "{:.3g}".format
    return [
        scatter(
            "Accuracy against multiply-accumulates",
            by_macs,
            x_label="GMACs, log scale",
            y_label="top-1, %",
            shown_x=shown,
        ),
        scatter(
            "Accuracy against parameters",
            by_params,
            x_label="M parameters, log scale",
            y_label="top-1, %",
            shown_x=shown,
        ),
    ]
