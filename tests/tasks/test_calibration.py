"""Temperature and threshold: against their definitions, kept with the weights, and said by predict."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source, write_image_folder
from crosscale.errors import RequestError, WorkError
from crosscale.predictor import Predictor
from crosscale.recipe import load
from crosscale.runs.experiment import build
from crosscale.runs.train import run_training
from crosscale.tasks.classification import Classification
from crosscale.tasks.classification.calibration import best_temperature, confidence, coverages, threshold_of
from crosscale.tasks.classification.intervals import intervals
from crosscale.tasks.registry import task_kind
from tests.reliability.runs import SMALL

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 400)


def overconfident(factor: float) -> np.ndarray:
    """Logits whose softmax, after division by the factor, is the chance with which the labels were drawn."""
    logits = RNG.normal(size=(20000, 4)) * 2
    drawn = (logits + RNG.gumbel(size=logits.shape)).argmax(1)
    return factor * logits, drawn


def test_the_temperature_undoes_what_was_done():
    for factor in (0.5, 3.0):
        logits, labels = overconfident(factor)
        assert best_temperature(logits, labels) == pytest.approx(factor, rel=0.05)


def test_no_temperature_where_every_picture_is_right():
    with pytest.raises(WorkError, match="every held-out picture is classified correctly"):
        best_temperature(np.eye(3) * 5, np.arange(3))


def test_thresholds_give_what_was_wished():
    logits, labels = overconfident(1.0)
    sure, right = confidence(logits, 1.0), logits.argmax(1) == labels
    found = threshold_of(sure, right, precision=0.9, coverage=None)
    answered = sure >= found.threshold
    assert (answered.mean(), right[answered].mean()) == (pytest.approx(found.coverage), pytest.approx(found.precision))
    assert found.precision >= 0.9
    lower = [other for other in coverages(sure, right) if other.threshold < found.threshold]
    assert all(other.precision < 0.9 for other in lower)
    assert threshold_of(sure, right, precision=None, coverage=0.8).coverage == pytest.approx(0.8, abs=1e-3)
    with pytest.raises(
        RequestError, match=r"--precision 0.99: no threshold reaches it; the best is 0.5, answering 100"
    ):
        threshold_of(np.array([0.9, 0.9]), np.array([True, False]), precision=0.99, coverage=None)


@pytest.mark.slow
def test_the_probabilities_and_the_answer():
    task = task_kind("classification").from_artifact(["a", "b"], {"temperature": 2.0, "reject": 0.7})
    logits = jnp.array([[0.0, 1.0], [0.0, 4.0]])
    unsure, sure = task.results(logits, ["x", "y"])
    assert unsure.probabilities[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert (unsure.json()["answer"], sure.json()["answer"]) == ("unknown", "b")
    assert unsure.rows()[0] == ("unknown", "below 70.00 %")
    assert [line.text for line in unsure.caption()] == ["unknown", "b", "a"]
    assert len(sure.rows()) == 2
    assert task.failure("z", "empty").json() == {
        "source": "z", "classes": [], "probabilities": [], "answer": None, "error": "empty"
    }  # fmt: skip
    metric, batch = task.metric, {"label": jnp.array([1, 1]), "weight": jnp.ones(2)}
    found = metric.compute(metric.update(metric.init(), logits, batch), {})
    assert found["loss"] == pytest.approx(float(np.log1p(np.exp([-0.5, -2.0])).mean()), rel=1e-5)
    assert metric.collect(logits, batch)["probability"][0] == pytest.approx(unsure.probabilities[0])
    again = task_kind("classification").from_artifact(["a", "b"], json.loads(json.dumps(task.artifact_options())))
    assert again == task
    assert "answer" not in Classification(2).results(logits, ["x", "y"])[0].json()


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": "hot"}, {"reject": 1.5}])
def test_kept_numbers_out_of_range(options):
    with pytest.raises(RequestError):
        task_kind("classification").from_artifact(["a", "b"], options)


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_the_command_keeps_it_with_the_weights(run, tmp_path, capsys):
    words = ["calibrate", "--run", str(run), "--data-dir", "digits"]
    before = (
        main(["validate", "--run", str(run), "--data-dir", "digits", "--json"]),
        json.loads(capsys.readouterr().out),
    )
    assert main([*words, "--coverage", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss_before"] == pytest.approx(before[1]["loss"], rel=1e-4)
    assert found["ece_before"] == pytest.approx(before[1]["ece"], rel=1e-3)
    assert found["loss"] < found["loss_before"]
    assert found["coverage"] == pytest.approx(0.5, abs=0.01)
    assert main(["validate", "--run", str(run), "--data-dir", "digits", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["loss"] == pytest.approx(found["loss"], rel=1e-4)
    assert after["top1"] == before[1]["top1"]
    options = json.loads((run / "best" / "config.json").read_text())["task_options"]
    assert options["temperature"] == found["temperature"]
    source = open_source("digits", "val")
    results = list(Predictor.from_run(run).predict([source[i].image for i in range(len(source))]))
    assert np.mean([not result.rejected for result in results]) == pytest.approx(found["coverage"], abs=0.005)
    assert main([*words, "--precision", "0.999"]) == 2
    assert "no threshold reaches it; the best is" in capsys.readouterr().err
    assert main(words) == 0
    assert "temperature" in capsys.readouterr().out


@pytest.mark.slow
def test_the_end_of_a_training_keeps_what_the_command_keeps(tmp_path, capsys, monkeypatch):
    folder, config = tmp_path / "run", tmp_path / "run" / "best" / "config.json"
    recipe = load("smoke", {**SMALL, "train.epochs": "2", "validate.calibrate": "true"})
    run_training(recipe, folder)
    assert "calibrated: temperature " in capsys.readouterr().err
    kept = json.loads(config.read_text())
    assert kept["task_options"]["temperature"] != 1
    config.write_text(json.dumps({name: value for name, value in kept.items() if name != "task_options"}))
    assert main(["calibrate", "--run", str(folder)]) == 0
    assert json.loads(config.read_text()) == kept
    # A run that is at its end leaves alone what was chosen since.
    assert main(["calibrate", "--run", str(folder), "--coverage", "0.9"]) == 0
    chosen = json.loads(config.read_text())
    run_training(recipe, folder, resume=True)
    assert json.loads(config.read_text()) == chosen
    assert chosen["task_options"]["reject"] > 0
    # Where nothing follows from the pictures, the run is done all the same.
    config.write_text(json.dumps({name: value for name, value in kept.items() if name != "task_options"}))

    def nothing(*_, **__):
        return best_temperature(np.eye(3) * 5, np.arange(3))

    monkeypatch.setattr("crosscale.runs.train.calibrate_best", nothing)
    assert run_training(recipe, folder, resume=True)["stopped"] is None
    assert "not calibrated: every held-out picture is classified correctly" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.val_fraction": "0"}, "validate.calibrate=true: nothing is held out to calibrate on"),
        ({"task.name": "regression"}, "validate.calibrate=true: this run has nothing to calibrate"),
    ],
)
def test_a_run_that_cannot_be_calibrated_is_refused_at_once(tmp_path, change, message):
    if "task.name" in change:
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        Image.new("L", (8, 8), 255).save(tmp_path / "b.png")
        Image.new("L", (8, 8), 99).save(tmp_path / "c.png")
        (tmp_path / "numbers.csv").write_text("path,y,split\na.png,1,train\nb.png,2,train\nc.png,2,val\n")
        change = {**change, "data.dir": str(tmp_path / "numbers.csv"), "augment.mixup": "0", "augment.cutmix": "0"}
    with pytest.raises(RequestError, match=message):
        build(load("smoke", {**change, "validate.calibrate": "true"}))


def test_an_answer_below_the_threshold_is_unknown(run, tmp_path, capsys):
    """A threshold above every probability: nothing is answered, in the table too."""
    config = run / "best" / "config.json"
    plain = json.loads(config.read_text())
    config.write_text(json.dumps({**plain, "task_options": {"reject": 1.0}}))
    write_image_folder({"val": open_source("digits", "val", val_fraction=0.01)}, tmp_path / "few")
    picture = next((tmp_path / "few").rglob("*.png"))
    assert main(["predict", "--run", str(run), str(picture), "--top-k", "1"]) == 0
    assert "unknown" in capsys.readouterr().out


def test_intervals_hold_what_they_say():
    """Against the normal approximation for top-1, and over many sets of which the true figure is known."""
    (value, lower, upper) = intervals(np.array([[450, 50], [30, 470]]))["top1"]
    spread = 1.96 * np.sqrt(0.92 * 0.08 / 1000)
    assert value == 0.92
    assert (lower, upper) == (pytest.approx(0.92 - spread, abs=2e-3), pytest.approx(0.92 + spread, abs=2e-3))
    rng = np.random.default_rng(1)
    chances, inside = np.array([0.55, 0.15, 0.1, 0.2]), 0  # recalls of 0.55 / 0.7 and 0.2 / 0.3
    for _ in range(200):
        _, lower, upper = intervals(rng.multinomial(300, chances).reshape(2, 2), draws=200)["balanced_accuracy"]
        inside += lower <= (0.55 / 0.7 + 0.2 / 0.3) / 2 <= upper
    assert 0.9 <= inside / 200 <= 0.99


def test_figures_are_those_of_the_measures():
    labels, said = RNG.integers(0, 5, 80), RNG.integers(0, 6, 80)
    counts = np.zeros((7, 7), int)
    np.add.at(counts, (labels, said), 1)
    metric = Classification(7).metric
    batch = {"label": jnp.asarray(labels), "weight": jnp.ones(80)}
    want = metric.compute(jax.jit(metric.update)(metric.init(), 9 * jnp.eye(7)[said], batch), {})
    found = intervals(counts, draws=2)
    assert {name: values[0] for name, values in found.items()} == {n: pytest.approx(want[n], rel=1e-5) for n in found}


def test_the_reports_curves():
    from crosscale.tasks.sections import Examined

    rows = {"predicted": np.array([0, 1, 1, 0]), "probability": np.array([0.95, 0.93, 0.55, 0.5], np.float32)}
    targets = {"label": np.array([0, 1, 0, 0])}
    examined = Examined(rows, targets, np.arange(4), str, lambda i: np.zeros((2, 2, 1), np.uint8))
    section = next(section for section in Classification(2).sections(examined) if section.id == "calibration")
    reliability, risk = section.blocks
    np.testing.assert_allclose(reliability.points, [[50, 100], [55, 0], [93, 100], [95, 100]], rtol=1e-5)
    np.testing.assert_allclose(risk.points, [[25, 0], [50, 0], [75, 100 / 3], [100, 25]], rtol=1e-5)
