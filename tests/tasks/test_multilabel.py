"""Any number of labels per picture: tables, loss and measures against NumPy, and a whole run."""

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
from crosscale.data.tag_table import open_tag_table
from crosscale.errors import RequestError
from crosscale.recipe import load
from crosscale.runs.experiment import build
from crosscale.runs.train import run_training
from crosscale.tasks.multilabel import MultiLabel, MultiLabelOptions
from crosscale.tasks.multilabel.metric import average_precision, best_threshold
from crosscale.tasks.registry import task_kind
from tests.conftest import TINY_CROSSVIT

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 3)).astype(np.float32)
TRUTH = (RNG.random((12, 3)) < 0.4).astype(np.float32)
WEIGHT = np.array([1.0] * 9 + [0.0] * 3, np.float32)
LABELS = ("cat", "dog", "outdoor")
SPLIT = {"val_fraction": 0.25, "seed": 0}


def task(**options):
    return task_kind("multilabel").from_artifact(LABELS, options)


@pytest.mark.parametrize("kind", ["bce", "asymmetric"])
def test_losses(kind):
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    if kind == "bce":
        want = -(TRUTH * np.log(p) + (1 - TRUTH) * np.log(1 - p))
    else:
        q = np.maximum(p - 0.1, 0)
        want = -(TRUTH * (1 - p) ** 1.0 * np.log(p) + (1 - TRUTH) * q**3 * np.log(1 - q))
    made = MultiLabel(LABELS, loss_kind=kind, gammas=(1.0, 3.0), margin=0.1)
    outputs = jnp.asarray(LOGITS).at[11].set(jnp.nan)  # a padded example must not count
    parts, count = made.loss(outputs, TRUTH, WEIGHT)
    assert (float(parts["labels"]), float(count)) == (pytest.approx(want.mean(-1)[:9].sum(), rel=1e-5), 9)
    sure = jnp.array([[90.0, -90.0, 0.0]])
    gradient = jax.grad(lambda x: made.loss(x, jnp.array([[0.0, 1.0, 1.0]]), jnp.ones(1))[0]["labels"])(sure)
    assert np.isfinite(np.asarray(gradient)).all()


def test_average_precision_is_that_of_scikit_learn():
    reference = pytest.importorskip("sklearn.metrics").average_precision_score
    for _ in range(20):
        scores, truth = RNG.integers(0, 6, 30) / 5, RNG.random(30) < 0.3
        if truth.any():
            assert average_precision(scores, truth) == pytest.approx(reference(truth, scores))
    assert np.isnan(average_precision(np.ones(3), np.zeros(3, bool)))


def test_a_threshold_is_the_best_there_is():
    for _ in range(20):
        scores, truth = RNG.random(25), RNG.random(25) < 0.4
        limit = best_threshold(scores, truth)

        def f1(at, scores=scores, truth=truth):
            said = scores >= at
            return 2 * (said & truth).sum() / (said.sum() + truth.sum())

        assert f1(limit) == pytest.approx(max(f1(at) for at in scores))
        assert limit not in scores
    assert best_threshold(np.array([0.2, 0.4]), np.array([True, True])) == 0.5


def test_measures_in_any_batches():
    from sklearn.metrics import average_precision_score, f1_score

    metric = MultiLabel(LABELS).metric
    state, rows = metric.init(), []
    for part in (slice(0, 5), slice(5, 12)):
        batch = {"tags": TRUTH[part], "weight": WEIGHT[part]}
        state = metric.merge(state, jax.jit(metric.update)(metric.init(), LOGITS[part], batch))
        rows.append(jax.tree.map(np.asarray, metric.collect(LOGITS[part], batch)))
    kept = {name: np.concatenate([row[name] for row in rows])[:9] for name in rows[0]}
    found = metric.compute(state, kept)
    truth, p = TRUTH[:9], 1 / (1 + np.exp(-LOGITS[:9]))
    assert found["map"] == pytest.approx(average_precision_score(truth, p), rel=1e-6)
    limits = [found[f"threshold/{name}"] for name in LABELS]
    said = p >= limits
    assert found["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro"))
    loss = -(truth * np.log(p) + (1 - truth) * np.log(1 - p))
    assert found["loss"] == pytest.approx(loss.mean(), rel=1e-5)
    fixed = task(thresholds=[0.5, 0.5, 0.5]).metric.compute(state, kept)
    assert fixed["macro_f1"] == pytest.approx(f1_score(truth, p >= 0.5, average="macro"))
    assert "threshold/cat" not in fixed
    assert all(np.isnan(value) for value in metric.compute(metric.init(), {}).values())


def test_what_a_validation_chose_is_kept():
    made = MultiLabel(LABELS)
    chosen = made.validated({"threshold/cat": 0.2, "threshold/dog": 0.9, "threshold/outdoor": 0.5, "map": 1.0})
    assert chosen.thresholds == (0.2, 0.9, 0.5)
    again = task_kind("multilabel").from_artifact(LABELS, json.loads(json.dumps(chosen.artifact_options())))
    assert again == chosen
    assert made.validated({}) is made
    (found,) = again.results(jnp.array([[0.0, 2.0, 3.0]]), ["x.png"])
    assert found.labels == ["outdoor", "cat"]
    assert found.rows()[0] == ("outdoor", "95.26 %")
    assert found.json()["probabilities"]["dog"] == pytest.approx(0.8808, abs=1e-4)
    assert found.caption()[1].value == "88.1 %"
    (none,) = again.results(jnp.full((1, 3), -9.0), ["x.png"])
    assert (none.labels, len(none.rows())) == ([], 1)
    assert again.failure("y", "empty").json() == {"source": "y", "labels": [], "probabilities": {}, "error": "empty"}


@pytest.mark.parametrize("limits", [[0.5], "high", [0.5, 0.5, 2.0]])
def test_thresholds_that_do_not_fit(limits):
    with pytest.raises(RequestError, match="3 labels need as many thresholds, each in 0"):
        task(thresholds=limits)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tags")
    for i in range(8):
        Image.fromarray(np.full((4, 4, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


TAGS = ["cat|outdoor", "dog", "", "cat | dog", "outdoor", "cat", "dog|outdoor|dog", "cat"]
WANT = [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1], [1, 0, 0]]


def write(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_every_form_of_a_table(pictures):
    tags = write(pictures, "tags.csv", "path,tags", *(f"{i}.png,{cell}" for i, cell in enumerate(TAGS)))
    columns = write(pictures, "columns.csv", "path;who;cat;dog;outdoor",
                    *(f"{i}.png;me;{';'.join(map(str, row))}" for i, row in enumerate(WANT)))  # fmt: skip
    lists = [cell.split("|") if cell else [] for cell in TAGS]
    lines = write(pictures, "t.jsonl", *(json.dumps({"path": f"{i}.png", "labels": v}) for i, v in enumerate(lists)))
    for file in (tags, columns, lines):
        source = open_tag_table(file, "all", **SPLIT)
        assert (source.classes, source.tags.astype(int).tolist()) == (LABELS, WANT)
    assert open_tag_table(columns, "all", **SPLIT).notes[0].endswith("label 3 from 'outdoor'; not read: who")
    named = open_tag_table(columns, "all", labels=("dog", "cat"), **SPLIT)
    assert named.classes == ("cat", "dog")
    mapped = open_tag_table(tags, "all", class_map={"cat": "pet", "dog": "pet", "outdoor": None}, **SPLIT)
    assert (mapped.classes, mapped.tags[:, 0].tolist()) == (("pet",), [bool(r[0] or r[1]) for r in WANT])
    np.testing.assert_array_equal(named.counted_as(LABELS, "x").tags, np.array(WANT, bool) & [True, True, False])
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    pq.write_table(pa.table({"path": [f"{i}.png" for i in range(8)], "tags": lists}), pictures / "t.parquet")
    assert open_tag_table(pictures / "t.parquet", "all", **SPLIT).tags.astype(int).tolist() == WANT


BROKEN = [
    (["path,cat,dog", "1.png,1,0", "2.png,2,1"], ("cat", "dog"), r"row 3: '2' in the column 'cat' is neither 0 nor 1"),
    (["path,tags", "1.png,a", "1.png,b"], (), r"1 rows give a picture another label: 1.png \(rows 2 and 3: 'a' and"),
    (["path,a,b", "1.png,x,y"], (), r"which columns are the labels \(a, b\)\? say so with task.label_columns"),
    (["path,tags", "1.png,", "2.png,"], (), "no row to train on has a label"),
    (["path,tags", "1.png,a"], ("tag",), "has no column 'tag'; did you mean 'tags'"),
    (["path,tags,split", "1.png,a,train", "2.png,b,val"], (), r"row 3: the label 'b' is held out but nowhere to train"),
]


@pytest.mark.parametrize(("lines", "labels", "message"), BROKEN)
def test_the_row_is_named(pictures, lines, labels, message):
    with pytest.raises(RequestError, match=message) as raised:
        open_tag_table(write(pictures, "broken.csv", *lines), "train", labels=labels, **SPLIT)
    assert "\n" not in str(raised.value)


def test_a_label_that_all_have_is_refused(pictures):
    file = write(pictures, "all.csv", "path,tags", *(f"{i}.png,a{'|b' * (i % 2)}" for i in range(8)))
    with pytest.raises(RequestError, match="every training picture has the label 'a'"):
        MultiLabel.from_data(MultiLabelOptions(), Augment.none(), open_tag_table(file, "train", **SPLIT))


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Programs that run once compile without optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """400 digits with two questions: does it have a loop, is it above 4."""
    folder = tmp_path_factory.mktemp("digits")
    source = open_source("digits", "all")
    lines = ["path,loop,large"]
    for index in range(0, 1600, 4):
        record = source[index]
        Image.fromarray(record.image).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{int(record.target in (0, 6, 8, 9))},{int(record.target > 4)}")
    return write(folder, "digits.csv", *lines)


TINY = {f"model.options.{name}": json.dumps(value) for name, value in TINY_CROSSVIT.items()}


def recipe(table, **more):
    overrides = {
        **TINY,
        "task.name": "multilabel",
        "train.epochs": "8",
        "train.batch_size": "32",
        "data.dir": str(table),
    }
    quiet = {"augment.mixup": "0", "augment.cutmix": "0", "augment.erase_prob": "0", "train.ema_decay": "null"}
    return load("smoke", {**overrides, **quiet, **more})


def test_an_experiment_is_built_of_a_table(table):
    experiment = build(recipe(table, **{"task.loss": "asymmetric"}))
    assert (experiment.task.labels, experiment.best) == (("large", "loop"), "map")
    assert experiment.artifact.task_options["thresholds"] is None
    assert isinstance(hash(experiment.task), int)
    assert experiment.train_source[0].target.shape == (2,)


@pytest.mark.slow
def test_a_run_from_the_table_to_every_command(table, tmp_path, capsys):
    folder = tmp_path / "run"
    result = run_training(recipe(table), folder)
    assert result["map"] > 0.7  # of a guess it is the labels' share, below a half
    config = json.loads((folder / "best" / "config.json").read_text())
    assert all(0 < limit < 1 for limit in config["task_options"]["thresholds"])
    assert main(["validate", "--run", str(folder), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {name: again[name] for name in ("map", "macro_f1")} == {
        name: pytest.approx(result[name], rel=1e-4) for name in ("map", "macro_f1")
    }
    picture = next(table.parent.glob("*.png"))
    assert main(["predict", "--run", str(folder), str(picture), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert set(found["probabilities"]) == {"large", "loop"}
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    for words in ("best mAP", "Labels, lowest average precision first", "Largest losses"):
        assert words in page
    assert main(["explain", "--run", str(folder), str(picture), "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["export", "--run", str(folder), "--format", "stablehlo", str(tmp_path / "m.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["output"]["name"] == "probabilities"
    starlette = pytest.importorskip("starlette.testclient")
    from crosscale.predictor import Predictor
    from crosscale.serve.app import make_app
    from crosscale.serve.served import ServedModel
    from crosscale.serve.settings import Settings

    served = ServedModel(Predictor.from_run(folder), "tags")
    with starlette.TestClient(make_app(served, Settings(max_batch=1))) as client:
        while client.get("/readyz").status_code != 200:
            pass
        answer = client.post("/v1/predict", files={"images": ("a.png", picture.read_bytes())})
        assert answer.json()["predictions"][0]["labels"] == found["labels"]
