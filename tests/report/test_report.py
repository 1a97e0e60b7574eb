"""The page of a real run, of runs that are not whole, and of several."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from crosscale.cli.main import main
from crosscale.engine.run_folder import locked
from crosscale.report.analysis import Analysis, analyse
from crosscale.report.compare import distinct_names, recipe_differences
from crosscale.report.page import render_run
from crosscale.report.published import published_rows, series_names
from crosscale.report.records import read_run
from crosscale.report.write import LiveReport
from crosscale.runs.validate import evaluate_run
from crosscale.tasks.measure import Measure
from crosscale.tasks.registry import task_kind
from crosscale.tasks.sections import Examined

VOID = {"meta", "link", "img", "input", "br", "option", "path", "rect", "line", "polyline"}


class Page(HTMLParser):
    """What a page refers to, its text, and whether its tags close."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.open, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[name] for name in ("src", "href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag == "img":
            assert found.get("alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def checked(text):
    """The page, after what holds for every page."""
    page = Page(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in page.ids
    assert not re.search(r"https?://", re.sub(r"data:[^\"]*", "", text))
    assert "@import" not in text
    return page


@pytest.mark.slow
def test_training_leaves_the_whole_page(trained):
    text = (trained / "report.html").read_text()
    page = checked(text)
    metrics = json.loads((trained / "best" / "config.json").read_text())["metrics"]
    assert f"{100 * metrics['top1']:.2f} %" in page.text
    for words in ("Confusion matrix", "Most confident mistakes", "Attention", "Learning rate", "Waiting for data"):
        assert words in page.text
    assert f"crosscale train --config {trained}/recipe.yaml --output-dir {trained}-again" in page.text
    assert "crosscale train --config smoke --train.epochs 2" in page.text
    assert re.search(r"peak memory, host\s*[\d.]+ [GM]iB", page.text)
    assert re.search(r"jax\s*\d+\.\d+", page.text)
    assert text.count('<img src="data:image/webp') > 5
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["peak_host_bytes"] > 10**8


@pytest.mark.slow
def test_the_page_is_written_after_every_epoch_and_whole_at_the_end(refreshed):
    assert [(final, epochs) for final, epochs, _ in refreshed] == [(False, 1.0), (False, 2.0), (True, 2.0)]
    assert refreshed[-1][2]


@pytest.mark.slow
def test_the_pass_agrees_with_validation(trained):
    analysis = analyse(trained)
    result = evaluate_run(run=trained).numbers
    assert analysis.examples == result["examples"] == 359
    (matrix,), (gallery,) = (section.blocks for section in analysis.sections[:2])
    per_class, confused = analysis.sections[2].blocks
    right = matrix.counts.trace()
    assert right / analysis.examples == pytest.approx(result["top1"])
    assert sum(int(row[1].split(" of ")[0]) for row in per_class.rows) == right
    assert [float(bar) for bar in per_class.bars] == sorted(float(bar) for bar in per_class.bars)
    sure = [float(picture.more.split(" %")[0]) for picture in gallery.pictures]
    assert sure == sorted(sure, reverse=True)
    assert all(f"taken for {picture.truth}" != picture.said for picture in gallery.pictures)
    assert all(picture.id.startswith("digits/") for picture in gallery.pictures)
    truth, predicted, count = confused.rows[0]
    assert matrix.counts[int(truth), int(predicted)] == int(count)
    assert int(count) == (matrix.counts - np.diag(matrix.counts.diagonal())).max()


def test_a_run_without_validation_has_curves_and_says_what_is_missing(written, capsys):
    folder = written("young", [{"kind": "train", "step": 5, "epoch": 0.5, "loss": 2.0, "lr": 1e-3}])
    assert main(["report", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["report"] == str(folder / "report.html")
    assert "no validation yet" in result["left_out"][0]
    page = checked((folder / "report.html").read_text())
    assert "no validation yet" in page.text
    assert "Confusion matrix" not in page.text


def test_a_run_that_nobody_goes_on_with(written):
    folder = written(
        "killed", [{"kind": "epoch", "step": 5, "epoch": 1, "train_loss": 2.0, "lr": 1e-3, "seconds": 75.0}]
    )
    said = (
        f"1 of 4 epochs are done (no process trains it now); to go on: crosscale train --output-dir {folder} --resume"
    )
    assert main(["report", str(folder)]) == 0
    text = checked((folder / "report.html").read_text()).text
    assert said in text
    assert "1 min 15 s" in text
    with locked(folder):
        assert main(["report", str(folder)]) == 0
    assert "to go on" not in (folder / "report.html").read_text()
    for ended in ("stopped by SIGTERM", "ended by an error: step 5: the loss (nan) is not finite"):
        LiveReport(folder).refresh(ended=ended)
        assert f"1 of 4 epochs are done ({ended}); to go on" in checked((folder / "report.html").read_text()).text


def test_the_page_shows_what_differs_from_the_defaults(written):
    recipe = "train: {epochs: 4, batch_size: 256}\nmodel: {name: crossvit, options: {depth: [[1, 1, 0]]}}\n"
    text = checked(render_run(read_run(written("a", [], recipe)), None)).text
    shown = text.split("What differs from the defaults.")[1].split("every key")[0]
    assert all(key in shown for key in ("train.epochs", "300", "model.name", "model.options.depth"))
    assert "batch_size" not in shown


def test_a_share_says_of_how_many(trained):
    config = json.loads((trained / "best" / "config.json").read_text())["metrics"]
    right = round(359 * config["top1"])
    assert f"{right} of 359; 95 % interval" in checked((trained / "report.html").read_text()).text
    assert f"({right} of 359; 95 % interval" in (trained / "log.txt").read_text()


def test_data_that_is_gone_is_said(trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    config = json.loads((copy / "best" / "config.json").read_text())
    config["data"]["dir"] = str(tmp_path / "gone")
    (copy / "best" / "config.json").write_text(json.dumps(config))
    assert main(["report", str(copy)]) == 0
    assert "pass over the held-out pictures failed" in capsys.readouterr().err
    assert "pass over the held-out pictures failed" in checked((copy / "report.html").read_text()).text


@pytest.mark.parametrize("count", [2, 1000])
def test_readable_at_two_and_at_a_thousand_classes(written, count):
    rng = np.random.default_rng(0)
    confusion = np.diag(rng.integers(30, 50, count))
    confusion[1, 0] = 7
    names = tuple(f"</script><b>{k}" for k in range(count))
    image = rng.integers(0, 256, (300, 200, 3)).astype(np.uint8)
    truth, predicted = np.nonzero(confusion)
    truth, predicted = (np.repeat(labels, confusion[truth, predicted]) for labels in (truth, predicted))
    examined = Examined(
        rows={"predicted": predicted, "probability": np.full(len(truth), 0.97)},
        targets={"label": truth},
        index=np.arange(len(truth)),
        name=lambda position: "a/b.jpg",
        picture=lambda position: image,
    )
    task = task_kind("classification").from_artifact(names, {})
    analysis = Analysis(task.sections(examined), len(truth))
    text = render_run(read_run(written("run", [])), analysis)
    page = checked(text)
    assert "<b>" not in text
    assert f"</script><b>{count - 1}" in page.text
    assert "97.0 % sure" in page.text
    if count == 2:
        assert text.count('<td class="wrong"') == 1
        assert "matrix-class" not in page.ids
    else:
        assert "matrix-class" in page.ids
        assert len(text) < 2_000_000
        data = re.search(r'id="confusion-data">(.*?)</script>', text, re.DOTALL)[1]
        cells = json.loads(data)["cells"]
        assert [1, 0, 7] in cells
        assert len(cells) == count + 1


def test_several_runs(trained, written, tmp_path, capsys):
    other = written("other", [{"kind": "validate", "step": 9, "epoch": 1, "loss": 1.0, "top1": 0.5, "top5": 0.9}])
    out = tmp_path / "both.html"
    assert main(["report", str(trained), str(other), "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out)
    page = checked(out.read_text())
    for words in ("smoke", "other", "train.epochs", "different data"):
        assert words in page.text
    differing = dict(recipe_differences([read_run(trained), read_run(other)]))
    assert differing["train.epochs"] == ["2", "4"]
    assert "model.name" in differing


def test_names_tell_runs_of_one_name_apart(tmp_path):
    for place in ("a/run", "b/run"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "metrics.jsonl").touch()
    runs = [read_run(tmp_path / place) for place in ("a/run", "b/run")]
    assert distinct_names(runs) == ["a/run", "b/run"]


def test_published_rows_have_every_family():
    rows = published_rows()
    assert {row.series for row in rows} == set(series_names())
    by_name = {row.name: row for row in rows}
    assert by_name["crossvit_15_dagger_240"].params == pytest.approx(28.2, abs=0.1)
    assert all(1 < row.params < 120 and 0.5 < row.gmacs < 60 and 70 < row.accuracy < 86 for row in rows)


def test_a_live_report_that_fails_does_not_stop_the_training(tmp_path, caplog):
    LiveReport(tmp_path / "nowhere").refresh()
    assert "the report was not written" in caplog.text


def test_a_live_report_spares_the_pass_while_it_would_cost_much(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    live = LiveReport(copy)
    live.refresh()
    assert "are not here yet; they come with a later epoch" in (copy / "report.html").read_text()
    live.refresh(final=True)
    assert "Confusion matrix" in (copy / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such run folder"),
        (["RUN", "--output", "x.html"], "--output goes with several runs"),
        (["RUN", "RUN"], "named twice"),
        (["RUN", "nowhere"], "no such run folder"),
        (["RUN", "OTHER", "--output", "no/such/x.html"], "no such folder"),
        ([], "required: RUN"),
    ],
)
def test_wrong_requests(trained, written, capsys, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    other = str(written("other", []))
    words = [{"RUN": str(trained), "OTHER": other}.get(word, word) for word in words]
    assert main(["report", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_what_a_share_of_pictures_is_worth():
    """Wilson's interval, as Brown, Cai and DasGupta (2001) give it."""
    assert Measure("top-1", True, True, of_pictures=True).counted(0.9375, 32) == (
        "30 of 32; 95 % interval 79.9 to 98.3 %"
    )
    assert Measure("loss").counted(0.9375, 32) == ""


def test_a_page_leads_with_confusion_and_mistakes_and_folds_the_recipe(trained):
    run = read_run(trained)
    text = render_run(run, analyse(trained))
    places = [text.index(words) for words in ('id="confusion"', 'id="mistakes"', 'id="curves"', 'id="recipe"')]
    assert places == sorted(places)
    assert "<details><summary>every key, as recipe.yaml holds it" in text
    assert "The training loss is of pictures that are cropped and changed at random" in text
    assert "Move the table sideways to see all 10 columns" in text
