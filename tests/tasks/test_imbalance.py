"""Rare classes: weights in the loss, focal loss and balanced sampling, against the formulas and end to end."""

import csv
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.data.augment import Augment
from crosscale.data.order import BalancedOrder, training_order
from crosscale.engine.loop import Loop
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.recipe import load, parse
from crosscale.runs.experiment import build
from crosscale.runs.train import run_training
from crosscale.tasks.classification import Classification, ClassificationOptions
from crosscale.tasks.classification.options import weights_of_classes
from tests.conftest import TINY_CROSSVIT

TINY = {f"model.options.{name}": json.dumps(value) for name, value in TINY_CROSSVIT.items()}
COUNTS = np.array([90, 9, 1])
NAMES = ("a", "b", "c")
SPLIT = {"val_fraction": 0.2, "seed": 0}
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 3)).astype(np.float32)
TARGETS = RNG.dirichlet(np.ones(3), 6).astype(np.float32)


def test_weights_follow_the_formulas_and_have_a_mean_of_one_over_the_pictures():
    inverse = np.array(weights_of_classes("inverse", NAMES, COUNTS))
    np.testing.assert_allclose(inverse / inverse[0], 90 / COUNTS, rtol=1e-6)
    beta = 1 - 1 / 100
    want = (1 - beta) / (1 - beta**COUNTS)
    for name in ("effective", "auto"):
        found = np.array(weights_of_classes(name, NAMES, COUNTS))
        np.testing.assert_allclose(found / found[0], want / want[0], rtol=1e-6)
    for wanted in ("inverse", "effective", (1.0, 2.0, 5.0), {"c": 5, "a": 1, "b": 2}):
        found = np.array(weights_of_classes(wanted, NAMES, COUNTS))
        assert (found * COUNTS).sum() == pytest.approx(100)
    given = weights_of_classes((1.0, 2.0, 5.0), NAMES, COUNTS)
    assert given == weights_of_classes({"c": 5, "a": 1, "b": 2}, NAMES, COUNTS)
    assert all(np.isfinite(weights_of_classes("auto", NAMES, np.array([3, 0, 0]))))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ((1.0, 2.0), "2 weights for 3 classes; one per class"),
        ({"a": 1, "b": 1}, "has no weight for the class 'c'"),
        ({"a": 1, "b": 1, "c": 1, "bb": 2}, "'bb' is no class of the data"),
    ],
)
def test_weights_of_other_classes_are_refused(wanted, message):
    with pytest.raises(RequestError, match=message):
        weights_of_classes(wanted, NAMES, COUNTS)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"class_weights": [1, 0]}, "task.class_weights=.*: every weight must be a positive number"),
        ({"class_weights": {"a": "much"}}, "every weight must be a positive number"),
        ({"class_weights": "rare"}, "task.class_weights: expected auto or inverse or effective or a list"),
        ({"focal_gamma": -1.0}, "task.focal_gamma=-1.0: must not be negative"),
        ({"sampling": "even"}, "task.sampling: expected natural or balanced, got 'even'"),
        ({"class_map": {"a": 3}}, "task.class_map: 'a' is mapped to 3; give a name in quotes, or null"),
    ],
)
def test_keys_out_of_range(task, message):
    with pytest.raises(RequestError, match=message):
        parse({"task": task})


@pytest.mark.parametrize(("gamma", "weights"), [(0.0, (1.0, 2.0, 4.0)), (2.0, None), (0.5, (3.0, 1.0, 1.0))])
def test_the_loss_is_that_of_the_formula(gamma, weights):
    logits = LOGITS.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    factors = np.ones(3) if weights is None else np.array(weights)
    want = -(TARGETS * factors * (1 - np.exp(log_p)) ** gamma * log_p).sum()
    parts, count = Classification(3, class_weights=weights, focal_gamma=gamma).loss(LOGITS, TARGETS, jnp.ones(6))
    assert (float(parts["labels"]), float(count)) == (pytest.approx(want, rel=1e-5), 6)


def test_the_focal_losss_gradient_is_finite_where_the_model_is_sure():
    task = Classification(3, focal_gamma=0.5)
    logits = jnp.array([[200.0, 0, 0], [0, 200.0, 0]])
    gradient = jax.grad(lambda x: task.loss(x, jnp.eye(3)[:2], jnp.ones(2))[0]["labels"])(logits)
    assert np.isfinite(np.asarray(gradient)).all()


def test_a_balanced_order_is_even_over_classes_and_over_their_pictures():
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    order = BalancedOrder(labels, per_epoch=100, seed=3, repeats=1)
    drawn = np.array([order(position) for position in range(2700)])
    np.testing.assert_array_equal(np.bincount(labels[drawn]), [900, 900, 900])
    counts = np.bincount(drawn, minlength=100)
    np.testing.assert_array_equal(counts, np.repeat([10, 100, 900], [90, 9, 1]))
    for epoch in range(27):
        part = np.bincount(labels[drawn[100 * epoch : 100 * epoch + 100]])
        assert part.max() - part.min() <= 1
    again = BalancedOrder(labels, per_epoch=100, seed=3, repeats=1)
    assert [again(position) for position in (1234, 7, 2699)] == drawn[[1234, 7, 2699]].tolist()
    assert [BalancedOrder(labels, 100, 4, 1)(i) for i in range(100)] != drawn[:100].tolist()
    twice = BalancedOrder(labels, per_epoch=100, seed=3, repeats=2)
    assert all(twice(2 * i) == twice(2 * i + 1) for i in range(100))


def test_the_training_order_takes_the_groups():
    labels = np.repeat([0, 1], [30, 2])
    order = training_order(range(32), per_epoch=32, epochs=2, seed=0, repeats=1, groups=labels)
    assert np.bincount(labels[[order[i] for i in range(64)]]).tolist() == [32, 32]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of 156 digits: 0s and 1s, seven 7s, and sixes that are not learnt."""
    folder = tmp_path_factory.mktemp("rare")
    source = open_source("digits", "all")
    with (folder / "digits.csv").open("w", newline="") as file:
        lines = csv.writer(file, delimiter=";")
        lines.writerow(["file", "label"])
        for digit, count in ((0, 70), (1, 69), (7, 7), (6, 10)):
            for index in np.flatnonzero(source.labels == digit)[:count]:
                Image.fromarray(source[int(index)].image).save(folder / f"{index}.png")
                lines.writerow([f"{index}.png", digit])
    return folder / "digits.csv"


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Programs that run once compile without optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


OVERRIDES = {
    **TINY,
    "task.class_map": "{'0': 'nought', '1': 'one', '6': null}",
    "task.sampling": "balanced",
    "task.class_weights": "auto",
    "train.epochs": "2",
    "train.batch_size": "32",
}


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "rare"
    return folder, run_training(load("smoke", {**OVERRIDES, "data.dir": str(table)}), folder)


@pytest.mark.slow
def test_a_table_of_classes_from_training_to_the_commands(run, table, capsys):
    folder, result = run
    log = (folder / "log.txt").read_text()
    assert "digits.csv: path from 'file', label from 'label'" in log
    assert "weights of the classes in the loss: 7 " in log
    config = json.loads((folder / "best" / "config.json").read_text())
    assert config["classes"] == ["nought", "one", "7"]
    assert config["task_options"] == {"class_map": {"0": "nought", "1": "one", "6": None}}
    assert main(["validate", "--run", str(folder), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["top1"], again["examples"]) == (pytest.approx(result["top1"]), 29)
    assert main(["predict", "--run", str(folder), str(next(table.parent.glob("*.png"))), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert set(found["classes"]) == {"nought", "one", "7"}
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "nought" in page
    assert "pass over the held-out pictures failed" not in page


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_also_when_balanced(run, table, tmp_path):
    """The parameters after two epochs are those of one epoch and a resumption."""
    recipe = load("smoke", {**OVERRIDES, "data.dir": str(table)})
    finish = Loop._finish_span

    def stop(loop, signals):
        finish(loop, signals)
        raise InterruptedError

    with mock.patch.object(Loop, "_finish_span", stop), pytest.raises(InterruptedError):
        run_training(recipe, tmp_path / "r")
    run_training(recipe, tmp_path / "r", resume=True)
    values = [Predictor.from_run(place).variables for place in (run[0], tmp_path / "r")]
    for first, second in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_array_equal(first, second)


def test_keys_reach_the_task(table):
    recipe = load("smoke", {**OVERRIDES, "task.focal_gamma": "2", "data.dir": str(table)})
    task = build(recipe).task
    assert (task.focal_gamma, task.balanced, task.labels) == (2.0, True, ("nought", "one", "7"))
    assert task.class_weights[2] > task.class_weights[1]
    assert isinstance(hash(task), int)
    options = ClassificationOptions(class_map={"6": None}, label_column="label")
    made = Classification.from_data(
        options, Augment.none(), Classification.open(table, "train", options=options, **SPLIT)
    )
    back = Classification.from_artifact(made.labels, json.loads(json.dumps(made.artifact_options())))
    assert (back.class_map, back.table.label) == ((("6", None),), "label")
    again = back.reopen(table, "val", **SPLIT)
    assert (tuple(again.classes), len(again)) == (("0", "1", "7"), 29)
