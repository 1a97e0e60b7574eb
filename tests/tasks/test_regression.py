"""Regression against NumPy, and a whole run of it: ink of handwritten digits, from a table to a served number."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.data.augment import Augment
from crosscale.data.table import TableSource
from crosscale.errors import RequestError
from crosscale.models.registry import create_model
from crosscale.predictor import Predictor
from crosscale.recipe import load
from crosscale.report.analysis import analyse
from crosscale.runs.train import run_training
from crosscale.tasks.registry import task_kind
from crosscale.tasks.regression import TARGETS, Regression, RegressionOptions

RNG = np.random.default_rng(0)
PREDICTED = RNG.normal(5, 3, (12, 2)).astype(np.float32)
TRUTH = RNG.normal(5, 3, (12, 2)).astype(np.float32)
WEIGHT = np.array([1.0] * 9 + [0.0] * 3, np.float32)
OPTIONS = {"units": ["g", ""], "mean": [5.0, 4.0], "std": [2.0, 0.5]}


def task(**changes):
    return task_kind("regression").from_artifact(["mass", "length"], {**OPTIONS, **changes})


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_losses(loss):
    error = (PREDICTED - TRUTH)[:9].astype(np.float64) / [2.0, 0.5]
    size, delta = np.abs(error), 1.5
    huber = np.where(size <= delta, error**2 / 2, delta * (size - delta / 2))
    want = {"mse": error**2, "mae": size, "huber": huber}[loss].mean(-1).sum()
    outputs = jnp.asarray(PREDICTED).at[11].set(jnp.nan)  # a padded example must not count
    parts, count = task(loss=loss, huber_delta=delta).loss(outputs, TRUTH, WEIGHT)
    assert (list(parts), float(count)) == (["values"], 9)
    assert float(parts["values"]) == pytest.approx(want, rel=1e-5)


def test_metrics_are_those_of_the_formulas_in_any_batches():
    metric = task().metric
    total = metric.init()
    for part in (slice(0, 5), slice(5, 12)):
        batch = {TARGETS: TRUTH[part], "weight": WEIGHT[part]}
        total = metric.merge(total, jax.jit(metric.update)(metric.init(), PREDICTED[part], batch))
    found = metric.compute(total, {})
    error, truth = (PREDICTED - TRUTH)[:9].astype(np.float64), TRUTH[:9].astype(np.float64)
    r2 = 1 - (error**2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    want = {"mae": np.abs(error).mean(0), "rmse": np.sqrt((error**2).mean(0)), "r2": r2}
    for name, values in want.items():
        assert found[name] == pytest.approx(values.mean(), rel=1e-4)
        assert [found[f"{name}/{label}"] for label in ("mass", "length")] == pytest.approx(values.tolist(), rel=1e-4)
    assert found["loss"] == pytest.approx((error**2 / np.square([2.0, 0.5])).mean(-1).mean(), rel=1e-4)
    assert all(np.isnan(value) for value in metric.compute(metric.init(), {}).values())


def test_statistics_and_units_come_from_the_training_rows():
    source = TableSource(
        Path(), Path(), ["mass", "length"], ["g", ""], ["a", "b", "c"], np.array([[1.0, 2], [3, 2.5], [8, 3]])
    )
    made = Regression.from_data(RegressionOptions(), Augment.none(), source)
    np.testing.assert_allclose((made.mean, made.std), (source.values.mean(0), source.values.std(0)))
    assert Regression.from_artifact(made.labels, json.loads(json.dumps(made.artifact_options()))) == made
    source.values[:, 1] = 2
    with pytest.raises(RequestError, match="the target 'length' is 2 in every training row"):
        Regression.from_data(RegressionOptions(), Augment.none(), source)


@pytest.mark.slow
def test_mixing_mixes_the_numbers_too():
    mixing = Augment(mixup=1.0, cutmix=0.0, erase_prob=0.0)
    made = Regression(("x",), ("",), (0.0,), (1.0,), augmentation=mixing)
    values = jnp.arange(4.0)[:, None]
    images = jnp.broadcast_to(values[:, :, None, None], (4, 2, 2, 1))
    mixed, targets = made.augment(jax.random.key(0), images, {TARGETS: values, "weight": jnp.ones(4)})
    np.testing.assert_allclose(mixed[:, 0, 0], targets, rtol=1e-6)
    assert not np.allclose(targets, values)


@pytest.mark.slow
def test_the_head_starts_at_the_mean_and_gives_the_datas_units():
    options = {"img_size": (16, 16), "patch_size": (4, 8), "embed_dim": (8, 8), "depth": ((1, 1, 0),)}
    options |= {"num_heads": (2, 2), "mlp_ratio": (1, 1, 1)}
    model = create_model("crossvit", **options, **task(mean=[500.0, -3.0]).model_options({}))
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    outputs = model.apply(model.init(jax.random.key(1), images), images)
    np.testing.assert_allclose(outputs, [[500, -3]] * 2, atol=1)
    task().check_outputs(outputs.shape[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [1.0]}, "needs as many units, means"),
        ({"mean": None}, "missing or no lists"),
        ({"std": ["wide", 1]}, "missing or no lists"),
        ({"huber_delta": -1.0}, "task.huber_delta=-1.0: must be positive"),
    ],
)
def test_stored_options_that_do_not_fit(options, message):
    with pytest.raises(RequestError, match=message):
        task(**options)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """480 digits as pictures, with the share of their pixels that is ink and the digit as a number."""
    folder = tmp_path_factory.mktemp("ink")
    source = open_source("digits", "all")
    with (folder / "ink.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "ink (%)", "digit"])
        for index in range(0, len(source), 4):
            record = source[index]
            Image.fromarray(record.image).resize((16, 16), Image.Resampling.NEAREST).save(folder / f"{index}.png")
            rows.writerow([f"{index}.png", 100 * record.image.mean() / 255, record.target])
    return folder / "ink.csv"


OVERRIDES = {
    "task.name": "regression",
    "task.targets": "[ink]",
    "train.epochs": "6",
    "train.batch_size": "32",
    "augment.mixup": "0",
    "augment.cutmix": "0",
    "augment.erase_prob": "0",
    "augment.scale": "[1, 1]",
    "augment.ratio": "[1, 1]",
    "train.ema_decay": "null",
}


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ink"
    result = run_training(load("smoke", {**OVERRIDES, "data.dir": str(table)}), folder)
    return folder, result


@pytest.mark.slow
def test_a_run_beats_the_mean_predictor_by_far(run):
    folder, result = run
    assert result["r2"] > 0.8  # the mean predictor has 0
    assert {"mae", "rmse", "r2", "loss", "examples"} <= set(result)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["kind"] == "validate"]
    assert min(line["rmse"] for line in validations) == pytest.approx(result["rmse"])
    assert "done: best RMSE" in (folder / "log.txt").read_text()
    assert "%, MAE" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_validation_prediction_and_report_agree(run, table, capsys):
    folder, result = run
    assert main(["validate", "--run", str(folder), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rmse"] == pytest.approx(result["rmse"], rel=1e-5)
    assert again["targets"] == ["ink"]
    source = Predictor.from_run(folder).task.reopen(table, "val", val_fraction=0.2, seed=0)
    files = [str(table.parent / path) for path in source.paths]
    assert main(["predict", "--run", str(folder), *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    errors = np.array([item["values"]["ink"] for item in found]) - source.values[:, 0]
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(result["rmse"], rel=1e-4)
    assert found[0]["units"] == {"ink": "%"}
    assert main(["predict", "--run", str(folder), files[0]]) == 0
    assert "quantity" in (table_text := capsys.readouterr().out)
    assert " %" in table_text
    sections = {section.id: section for section in analyse(folder).sections}
    scatter, histogram = sections["scatter"].blocks
    np.testing.assert_allclose(scatter.points[:, 1] - scatter.points[:, 0], errors, atol=1e-3)
    assert histogram.counts.sum() == len(errors)
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    for words in ("best RMSE", "Predicted against true", "ink: errors", "Largest errors", "predicted ink, %"):
        assert words in page


@pytest.mark.slow
def test_explain_and_export(run, table, tmp_path, capsys):
    folder, _ = run
    picture = str(next(table.parent.glob("*.png")))
    assert main(["explain", "--run", str(folder), picture, "--output", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["explanations"]
    assert Path(found["output"]).is_file()
    assert list(found["values"]) == ["ink"]
    assert main(["export", "--run", str(folder), "--format", "stablehlo", str(tmp_path / "m.zip"), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["config"]["output"]["name"] == "values"
    assert exported["config"]["task"] == "regression"


@pytest.mark.slow
def test_serving(run, table):
    starlette = pytest.importorskip("starlette.testclient")
    from crosscale.serve.app import make_app
    from crosscale.serve.served import ServedModel
    from crosscale.serve.settings import Settings

    predictor = Predictor.from_run(run[0])
    picture = next(table.parent.glob("*.png"))
    with starlette.TestClient(make_app(ServedModel(predictor, "ink"), Settings(max_batch=1))) as client:
        while client.get("/readyz").status_code != 200:
            pass
        answer = client.post("/v1/predict", files={"images": ("a.png", picture.read_bytes())})
        (found,) = answer.json()["predictions"]
        (said,) = predictor.predict([picture])
        assert found["values"]["ink"] == pytest.approx(said.values[0], rel=1e-4)
        assert found["caption"][0]["text"] == "ink"
        assert client.get("/v1/model").json()["noun"] == "quantities"
        refused = client.post("/v1/predict", files={"images": ("a.png", b"x")}, data={"top_k": "3"})
        assert refused.status_code in (400, 415)
        schema = client.get("/openapi.json").json()["components"]["schemas"]
        assert "values" in schema["Predictions"]["properties"]["predictions"]["items"]["properties"]


def one_line(capsys, *words):
    """The error line of a command that is refused with status 2."""
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


@pytest.mark.slow
def test_requests_that_are_wrong(run, table, tmp_path, capsys):
    folder = run[0]
    smoke = ["train", "--config", "smoke", "--dry-run"]
    assert "did you mean 'regression'" in one_line(capsys, *smoke, "--task.name", "regresion")
    told = one_line(capsys, *smoke, "--task.loss", "mae")
    assert "task.loss is an option of the task multilabel or regression, not of classification" in told
    data = ["--data-dir", str(table)]
    told = one_line(capsys, *smoke, "--task.name", "regression", "--task.label_smoothing", "0.1", *data)
    assert "task.label_smoothing is an option of the task classification" in told
    assert "top_k does not go with the task regression" in one_line(
        capsys, "predict", "--run", str(folder), str(table.parent / "0.png"), "--top-k", "2"
    )
    told = one_line(capsys, *smoke, "--task.name", "regression", "--task.targets", "[inc]", *data)
    assert "has no column 'inc'; did you mean 'ink'" in told
    told = one_line(capsys, "validate", "--run", str(folder), "--data-dir", "digits")
    assert "give a .csv, .jsonl or .parquet" in told
    assert "validate.best=top1: one of" in one_line(
        capsys, *smoke, "--task.name", "regression", "--validate.best", "top1", *data
    )
    broken = tmp_path / "broken.csv"
    broken.write_text(f"path,ink\n{table.parent / '0.png'},12\n{table.parent / '4.png'},many\n")
    assert "row 3: 'many' in the column 'ink' is no number" in one_line(
        capsys, *smoke, "--task.name", "regression", "--data-dir", str(broken)
    )
