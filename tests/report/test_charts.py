"""The charts: where the lines are, and that nothing in a name becomes markup."""

import json
import re
from html import unescape
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from crosscale.report.charts import Mark, Series, line_chart, points_chart, scatter, thinned, ticks
from crosscale.tasks.sections import Scatter


def parsed(markup):
    return ElementTree.fromstring(str(markup).replace("class=num", 'class="num"').replace("scope=col", 'scope="col"'))


def test_a_line_goes_from_corner_to_corner():
    chart = line_chart("t", [Series("a", [(0.0, 1.0), (1.0, 3.0)])], y_label="y")
    first, last = (tuple(map(float, p.split(","))) for p in re.search(r'polyline.*?points="(.*?)"', chart)[1].split())
    assert first[0] < last[0]
    assert first[1] > last[1]  # larger values stand higher
    data = json.loads(unescape(re.search(r'data-chart="(.*?)"', chart)[1]))
    assert data["series"][0]["points"] == [[0.0, 1.0, "1"], [1.0, 3.0, "3"]]
    assert parsed(chart).get("tabindex") == "0"


def test_names_are_escaped():
    chart = line_chart("<b>", [Series("<script>x</script>", [(0.0, 1.0)]), Series("y", [(0.0, 2.0)])], y_label="<i>")
    assert "<script>" not in chart
    assert "<b>" not in chart
    assert "<i>" not in chart
    marks = [Mark("<script>", "g", 1.0, 50.0, 0, True), Mark("b", "h", 5.0, 70.0, 1)]
    assert "<script>" not in scatter("t", marks, x_label="x", y_label="y", shown_x=str)


def test_nothing_to_draw():
    assert "nothing yet" in line_chart("t", [Series("a", [])], y_label="y")
    for points in ([(1.0, 5.0)], [(1.0, 0.0), (2.0, 0.0)]):
        assert "nan" not in line_chart("t", [Series("a", points)], y_label="y").lower()


def test_long_runs_are_thinned_to_means():
    points = [(float(i), float(i % 2)) for i in range(10_001)]
    short = thinned(points)
    assert len(short) <= 401
    assert short[-1] == points[-1]
    assert all(abs(y - 0.5) < 0.05 for _, y in short[:-1])
    assert thinned(points[:300]) == points[:300]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.1, 0.13), (-3, 1e6), (1e-7, 3e-6)])
def test_ticks_are_few_round_numbers_within(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 * high <= value <= high * (1 + 1e-9) for value in found)
    steps = {round((b - a) / (high - low), 6) for a, b in pairwise(found)}
    assert len(steps) == 1


def test_scatter_is_logarithmic():
    marks = [Mark(str(x), "g", x, 50.0 + x / 100) for x in (1.0, 10.0, 100.0)]
    xs = [
        float(x)
        for x in re.findall(r'<g tabindex.*?cx="([\d.]+)"', scatter("t", marks, x_label="x", y_label="y", shown_x=str))
    ]
    assert xs[2] - xs[1] == pytest.approx(xs[1] - xs[0], abs=0.2)


def test_dots_are_as_large_as_what_they_stand_for():
    points = np.array([[10.0, 20.0], [50.0, 60.0], [90.0, 85.0]])
    chart = points_chart(Scatter("t", points, "x", "y", diagonal=True, counts=np.array([1, 100, 400])))
    radii = [float(r) for r in re.findall(r'<circle [^>]*r="([\d.]+)"', chart)]
    assert radii == pytest.approx([2.5 + 6.5 / 20, 2.5 + 6.5 / 2, 9.0], abs=0.06)
    assert re.findall("<title>(.*?)</title>", chart) == ["1 image", "100 images", "400 images"]
    alike = points_chart(Scatter("t", points, "x", "y"))
    assert len(set(re.findall(r'<circle [^>]*r="([\d.]+)"', alike))) == 1
