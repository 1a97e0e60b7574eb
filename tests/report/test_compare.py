"""The page that compares runs: the winner, the same held-out pictures, and who may stand beside published models."""

import re
from dataclasses import replace

import pytest

from crosscale.measure import Costs
from crosscale.report.compare import render_comparison
from crosscale.report.records import read_run

COSTS = Costs(parameters=1_000_000, macs=2_000_000, formula_macs=2_000_000, activations=1_000)
WORDNET = tuple(f"n{number:08}" for number in range(1000))


@pytest.fixture
def pair(trained):
    """A real run, and the same with other numbers under another name."""
    run = read_run(trained)
    numbers = {**run.best.metrics, "top1": run.metrics["top1"] / 2, "loss": run.metrics["loss"] / 2}
    other = replace(run, folder=trained.parent / "other", name="other", best=replace(run.best, metrics=numbers))
    return [run, other]


def page(runs):
    return render_comparison(runs, [COSTS] * len(runs))


def test_the_best_of_each_measure_is_bold(pair):
    first, second = re.findall(r"<tr><th scope=\"row\">.*?</tr>", page(pair).split('id="curves"')[0])
    shown = pair[0].kind.measures
    assert re.findall("<strong>(.*?)</strong>", first) == [shown["top1"].shown(pair[0].metrics["top1"])]
    assert re.findall("<strong>(.*?)</strong>", second) == [shown["loss"].shown(pair[1].metrics["loss"])]
    assert '<td class="num">359</td>' in first  # how many pictures it was measured on
    assert re.search(r"<td class=\"num\">\d+ s</td>", first)  # how long it took


def test_it_says_whether_the_held_out_pictures_are_the_same(pair):
    run, other = pair
    assert "All runs were measured on the same 359 held-out pictures." in page(pair)
    moved = replace(other, environment={"data": {"val": {"images": 359, "digest": "another"}}})
    assert "The runs were measured on different held-out pictures." in page([run, moved])
    assert "do not say whether they were measured on the same" in page([run, replace(other, environment={})])


def test_only_imagenets_own_classes_stand_beside_published_models(pair):
    run, other = pair
    assert "Beside published models" not in page(pair)
    there = replace(run, best=replace(run.best, num_outputs=1000, labels=WORDNET))
    text = page([there, other])
    assert "Beside published models" in text
    assert all(family in text for family in ("DeiT", "PVT", "T2T-ViT", "CrossViT", "CrossFormer"))
    published = text.split('id="published"')[1]
    assert (f">{run.name}<" in published, ">other<" in published) == (True, False)
