"""Line charts and scatter plots as inline SVG: no script is needed to read them, one adds the values at a cursor."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from crosscale.report.records import Points
from crosscale.tasks.sections import Scatter

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 14, 12, 40
_MAX_POINTS = 400
_MAX_MARKS = 2000
STYLES = 8  # of lines and marks in the style sheet; further series begin again


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
      name: for the legend.
      points: (x, y), x rising.
      style: number of its colour and dashes.
    """

    name: str
    points: Points
    style: int = 0


@dataclass(frozen=True)
class Mark:
    """One point of a scatter plot.

    Attributes:
      name: of the point itself, shown beside it where `labelled`.
      group: for the legend.
    """

    name: str
    group: str
    x: float
    y: float
    style: int = 0
    labelled: bool = False


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    x_label: str = "epoch",
    shown: Callable[[float], str] = "{:.4g}".format,
    from_zero: bool = False,
) -> Markup:
    """A chart of lines over a common x, or a sentence where there is nothing to draw.

    Args:
      shown: how a value is written, on the axis and in the table.
      from_zero: whether the axis begins at zero.
    """
    drawn = [Series(s.name, thinned(s.points), s.style % STYLES) for s in series if s.points]
    if not drawn:
        return _nothing_yet(title)
    xs, ys = ([p[i] for s in drawn for p in s.points] for i in (0, 1))
    x = _Axis(*_range(min(xs), max(xs), from_zero=False), False, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_range(min(ys), max(ys), from_zero=from_zero), False, _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x, y, "{:g}".format, shown, x_label, y_label)]
    for s in drawn:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in s.points)
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(s.style, path))
        if len(s.points) == 1:
            a, b = s.points[0]
            parts.append(
                Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(s.style, x(a), y(b))
            )
    parts.append(Markup('<line class="cursor" y1="{}" y2="{}" visibility="hidden"/>').format(_TOP, _HEIGHT - _BOTTOM))
    data = {
        "x": [x.low, x.high, x.start, x.end],
        "series": [{"name": s.name, "points": [[a, b, shown(b)] for a, b in s.points]} for s in drawn],
        "x_label": x_label,
    }
    return Markup(
        '<figure class="chart" tabindex="0" role="group" aria-label="{title}; arrow keys move a cursor" '
        'data-chart="{data}"><figcaption>{title}</figcaption>{legend}'
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title} over {x_label}">{body}</svg>'
        '<p class="readout" aria-live="polite"></p>{table}</figure>'
    ).format(
        title=title,
        data=json.dumps(data),
        legend=_legend([(s.name, s.style) for s in drawn], "line") if len(drawn) > 1 else "",
        w=_WIDTH,
        h=_HEIGHT,
        x_label=x_label,
        body=Markup("").join(parts),
        table=_table(drawn, x_label, shown),
    )


def scatter(
    title: str, marks: Sequence[Mark], *, x_label: str, y_label: str, shown_x: Callable[[float], str]
) -> Markup:
    """Points over a logarithmic x; every one names itself when it is pointed at or reached with the keyboard."""
    xs, ys = [m.x for m in marks], [m.y for m in marks]
    x = _Axis(min(xs) / 1.25, max(xs) * 1.4, True, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_range(min(ys), max(ys), from_zero=False), False, _HEIGHT + 80 - _BOTTOM, _TOP)
    parts = [_axes(x, y, shown_x, "{:g}".format, x_label, y_label)]
    for m in marks:
        text = f"{m.name}: {shown_x(m.x)} {x_label.partition(',')[0]}, {m.y:.1f} %"
        parts.append(
            Markup('<g tabindex="{}" role="img" aria-label="{}"><title>{}</title>{}</g>').format(
                "0" if m.labelled else "-1", text, text, _mark(x(m.x), y(m.y), m.style % STYLES, m.labelled)
            )
        )
        if m.labelled:
            anchor, shift = ("end", -9) if x(m.x) > _WIDTH * 0.7 else ("start", 9)
            parts.append(
                Markup('<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
                    x(m.x) + shift, y(m.y) + 4, anchor, m.name
                )
            )
    groups = list({m.group: m.style % STYLES for m in marks}.items())
    return Markup(
        '<figure class="chart"><figcaption>{title}</figcaption>{legend}'
        '<svg viewBox="0 0 {w} {h}" role="group" aria-label="{title}">{body}</svg></figure>'
    ).format(title=title, legend=_legend(groups, "mark"), w=_WIDTH, h=_HEIGHT + 80, body=Markup("").join(parts))


def _nothing_yet(title: str) -> Markup:
    return Markup('<figure class="chart"><figcaption>{}</figcaption><p class="faint">nothing yet</p></figure>').format(
        title
    )


def points_chart(block: Scatter) -> Markup:
    """Pairs of numbers as dots; over one range where the line is drawn on which both are equal."""
    points = block.points
    if not len(points):
        return _nothing_yet(block.title)
    (x_low, y_low), (x_high, y_high) = points.min(0), points.max(0)
    if block.diagonal:
        x_low = y_low = min(x_low, y_low)
        x_high = y_high = max(x_high, y_high)
    x = _Axis(*_range(float(x_low), float(x_high), from_zero=False), False, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_range(float(y_low), float(y_high), from_zero=False), False, _HEIGHT + 80 - _BOTTOM, _TOP)
    parts = [_axes(x, y, "{:g}".format, "{:g}".format, block.x_label, block.y_label)]
    if block.diagonal:
        parts.append(
            Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
                x(x.low), y(x.low), x(x.high), y(x.high)
            )
        )
    if block.counts is None:
        step = -(-len(points) // _MAX_MARKS)
        parts += [_mark(x(float(a)), y(float(b)), 0, False) for a, b in points[::step]]
    else:
        most = block.counts.max()
        parts += [
            _sized_dot(x(float(a)), y(float(b)), int(count), float(count / most))
            for (a, b), count in zip(points, block.counts, strict=True)
        ]
    return Markup(
        '<figure class="chart"><figcaption>{title}</figcaption>'
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}: {n} points">{body}</svg></figure>'
    ).format(title=block.title, w=_WIDTH, h=_HEIGHT + 80, n=len(points), body=Markup("").join(parts))


def _sized_dot(x: float, y: float, count: int, share: float) -> Markup:
    """A dot whose area grows with `share`, 0..1, and which says how many images it stands for."""
    radius = 2.5 + 6.5 * math.sqrt(share)
    text = f"{count:,} {'image' if count == 1 else 'images'}"
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="dot s0"><title>{}</title></circle>').format(
        x, y, radius, text
    )


def histogram(title: str, edges: np.ndarray, counts: np.ndarray, *, x_label: str) -> Markup:
    """Bars of `counts` between neighbouring `edges` (one more than the counts)."""
    x = _Axis(float(edges[0]), float(edges[-1]), False, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(0.0, float(max(counts.max(), 1)) * 1.04, False, _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x, y, "{:g}".format, "{:g}".format, x_label, "pictures")]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        parts.append(
            Markup(
                '<rect class="dot s0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{:g} to {:g}: {}</title></rect>"
            ).format(
                x(float(low)),
                y(float(count)),
                max(x(float(high)) - x(float(low)) - 1, 0.5),
                y(0.0) - y(float(count)),
                low,
                high,
                int(count),
            )
        )
    return Markup(
        '<figure class="chart"><figcaption>{title}</figcaption>'
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}">{body}</svg></figure>'
    ).format(title=title, w=_WIDTH, h=_HEIGHT, body=Markup("").join(parts))


def thinned(points: Points) -> Points:
    """At most a few hundred points: means over equally many neighbours; the last point stays as it is."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    size = -(-len(points) // (_MAX_POINTS - 1))
    chunks = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    means = [(sum(p[0] for p in c) / len(c), sum(p[1] for p in c) / len(c)) for c in chunks]
    return [*means, points[-1]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within low..high."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    found = []
    while (first * step) <= high + step * 1e-9:
        found.append(first * step)
        first += 1
    return found


def _log_ticks(low: float, high: float) -> list[float]:
    candidates = [
        m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    return [value for value in candidates if low <= value <= high]


def _range(low: float, high: float, *, from_zero: bool) -> tuple[float, float]:
    """A little more than low..high, and never empty."""
    if from_zero:
        low = min(0.0, low)
    margin = (high - low) * 0.04
    if margin == 0:
        margin = abs(high) * 0.1 or 1.0
    return (low if from_zero and low == 0 else low - margin), high + margin


def _axes(
    x: _Axis, y: _Axis, shown_x: Callable[[float], str], shown_y: Callable[[float], str], x_label: str, y_label: str
) -> Markup:
    parts = []
    for value in ticks(y.low, y.high):
        at = y(value)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(x.start, x.end, at, at)
        )
        parts.append(
            Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(x.start - 6, at + 4, shown_y(value))
        )
    for value in _log_ticks(x.low, x.high) if x.log else ticks(x.low, x.high, 6):
        at = x(value)
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
                at, y.start + 16, shown_x(value)
            )
        )
    parts.append(
        Markup('<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
            (x.start + x.end) / 2, y.start + 33, x_label
        )
    )
    parts.append(
        Markup('<text class="axis" transform="translate(11 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (y.start + y.end) / 2, y_label
        )
    )
    parts.append(
        Markup('<line class="base" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x.start, x.end, y.start, y.start)
    )
    return Markup("").join(parts)


def _mark(x: float, y: float, style: int, large: bool) -> Markup:
    """Groups differ in shape as well as in colour."""
    r = 6.5 if large else 4.5
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"',
        f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"',
        f'<path d="M{x:.1f} {y - r - 1:.1f}l{r + 1} {2 * r}h{-2 * r - 2}z"',
        f'<path d="M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}z"',
        f'<path d="M{x:.1f} {y + r + 1:.1f}l{r + 1} {-2 * r}h{-2 * r - 2}z"',
        f'<path d="M{x - r:.1f} {y - r / 3:.1f}v{2 * r / 3}h{2 * r / 3}v{2 * r / 3}h{2 * r / 3}v{-2 * r / 3}'
        f'h{2 * r / 3}v{-2 * r / 3}h{-2 * r / 3}v{-2 * r / 3}h{-2 * r / 3}v{2 * r / 3}z"',
    )
    return Markup(f'{shapes[style % len(shapes)]} class="dot s{style}"/>')


def _legend(entries: Sequence[tuple[str, int]], kind: str) -> Markup:
    def sample(style: int) -> Markup:
        shape = (
            _mark(12, 7, style, False)
            if kind == "mark"
            else Markup('<line class="line s{}" x1="0" x2="24" y1="7" y2="7"/>').format(style)
        )
        return Markup('<svg class="sample" width="24" height="14" aria-hidden="true">{}</svg>').format(shape)

    items = Markup("").join(Markup("<li>{}{}</li>").format(sample(style), name) for name, style in entries)
    return Markup('<ul class="legend">{}</ul>').format(items)


def _table(series: Sequence[Series], x_label: str, shown: Callable[[float], str]) -> Markup:
    """The values for those who cannot see the lines: at most twenty rows a series, the last one among them."""
    body = Markup("")
    for s in series:
        step = max(1, -(-len(s.points) // 20))
        picked = s.points[::-1][::step][::-1]
        body += Markup("").join(
            Markup("<tr><td>{}</td><td class=num>{:g}</td><td class=num>{}</td></tr>").format(
                s.name, round(a, 3), shown(b)
            )
            for a, b in picked
        )
    return Markup(
        "<details><summary>values</summary><table><thead><tr><th scope=col>curve</th><th scope=col>{}</th>"
        "<th scope=col>value</th></tr></thead><tbody>{}</tbody></table></details>"
    ).format(escape(x_label), body)
