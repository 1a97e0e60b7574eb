"""`config.json`: what is written is read back, the first schema is read too, and what is malformed is one line."""

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crosscale.artifact import (
    MAX_BYTES,
    VERSION,
    Artifact,
    best_folder,
    package_version,
    read_artifact,
    read_if_ours,
    write_artifact,
)
from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.pretrained import load_weights, restore_model
from crosscale.pretrained.finetuning import model_of
from crosscale.pretrained.teacher import load_teacher
from crosscale.recipe import load
from crosscale.report.records import read_run
from crosscale.runs.experiment import build

GOLDEN = Path(__file__).parent / "golden" / "runs"
SPEC = InputSpec(size=(8, 12), crop_pct=0.9, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bilinear")


def artifact(**changes: Any) -> Artifact:
    given: dict[str, Any] = {
        "model": "crossvit",
        "options": {"patch_size": [4, 8], "qkv_bias": True, "qk_scale": None, "rescale": "bicubic", "mlp_ratio": 1.5},
        "labels": ("ant", "Galáxia"),
        "num_outputs": 2,
        "input_spec": SPEC,
    }
    return Artifact(**{**given, **changes})


# ---- there and back ----


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"step": 0, "epoch": 0, "metrics": {"top1": 0.5, "examples": 359}},
        {"data": {"dir": None, "val_fraction": 0.2, "seed": 7, "batch_size": 32, "table": "x.csv"}},
        {"extra": {"architecture": "crossvit_9_240", "license": "mit", "pretrained_cfg": {"mean": [0.5]}}},
        {"task": "regression", "task_options": {"mean": [1.5], "unit": "mm"}, "labels": ("area", "angle")},
        {"num_outputs": 0, "labels": ()},
        {"input_spec": replace(SPEC, crop_mode="pad")},
        {"crosscale_version": ""},
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    written = artifact(**changes)
    write_artifact(tmp_path, written)
    assert read_artifact(tmp_path) == read_artifact(tmp_path / "config.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_keys_on_disc(tmp_path: Path) -> None:
    write_artifact(tmp_path, artifact(step=3, epoch=1, data={"dir": "digits"}, extra={"license": "mit"}))
    plain = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert list(plain) == [
        "version", "model", "options", "classes", "num_classes", "input_spec", "task", "metrics", "step", "epoch",
        "data", "crosscale_version", "license",
    ]  # fmt: skip
    assert (plain["version"], plain["task"], plain["classes"]) == (VERSION, "classification", ["ant", "Galáxia"])
    assert plain["crosscale_version"] == package_version()
    assert plain["input_spec"]["size"] == [8, 12]
    write_artifact(tmp_path, artifact())
    assert not {"step", "epoch", "data", "task_options"} & set(json.loads((tmp_path / "config.json").read_text()))


def test_numbers_that_are_not_finite_are_null_on_disc(tmp_path: Path) -> None:
    write_artifact(tmp_path, artifact(metrics={"loss": math.nan, "rate": math.inf, "top1": 0.5}))
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"] == {"loss": None, "rate": None, "top1": 0.5}
    found = read_artifact(tmp_path).metrics
    assert math.isnan(found["loss"])
    assert found["top1"] == 0.5
    # The first schema's writer left the word NaN, which JSON does not have but Python reads.
    (tmp_path / "config.json").write_text(text.replace('"loss": null', '"loss": NaN'))
    assert math.isnan(read_artifact(tmp_path).metrics["loss"])


def test_tuples_are_lists_as_json_has_them(tmp_path: Path) -> None:
    written = artifact(options={"img_size": ((48, 32), 16)})
    assert written.options == {"img_size": [[48, 32], 16]}
    write_artifact(tmp_path, written)
    assert read_artifact(tmp_path) == written


@pytest.mark.parametrize("name", ["crossvit", "crossformer"])
def test_the_first_schema(name: str, tmp_path: Path) -> None:
    plain = json.loads((GOLDEN / name / "best" / "config.json").read_text())
    found = read_artifact(GOLDEN / name / "best")
    assert (found.version, found.task, found.extra) == (1, "classification", {})
    assert (found.model, found.options, found.metrics) == (plain["model"], plain["options"], plain["metrics"])
    assert (found.step, found.epoch, found.data) == (22, 1, plain["data"])
    assert found.labels == tuple("0123456789")
    assert found.input_spec == InputSpec((16, 16), 1, (0.3,), (0.37,), "bicubic", 1.0)
    write_artifact(tmp_path, found)
    again = json.loads((tmp_path / "config.json").read_text())
    assert again == {**plain, "version": VERSION, "task": "classification"}


def test_a_training_writes_what_its_experiment_says() -> None:
    experiment = build(load("smoke"))
    found = experiment.artifact
    assert found.model == "crossvit"
    assert found.options["embed_dim"] == [16, 24]
    assert "num_classes" not in found.options
    assert found.data == {"dir": "digits", "val_fraction": 0.2, "seed": 0, "batch_size": 128}


def test_a_training_is_refused_before_it_begins() -> None:
    """Not after its first validation, when there is something to write."""
    names = {"data.train_images": "8", "data.val_images": "8", "data.dir": "null", "train.batch_size": "8"}
    recipe = load("smoke", {**names, "data.classes": "[cat, dog, cat]", "data.num_classes": "3"})
    with pytest.raises(RequestError, match='classes: "cat" appears twice'):
        build(recipe, without_data=True)


def test_the_page_has_every_key() -> None:
    page = (Path(__file__).parent.parent / "docs" / "weights.md").read_text(encoding="utf-8")
    table = page.split("## What `config.json` says")[1].split("Further keys")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    on_disc = {"labels": "classes", "num_outputs": "num_classes"}
    assert named == {on_disc.get(item.name, item.name) for item in fields(Artifact)} - {"extra"}


# ---- folders ----


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such folder"):
        best_folder(tmp_path / "gone")
    with pytest.raises(RequestError, match="not a run folder"):
        best_folder(tmp_path)
    (tmp_path / "recipe.yaml").write_text("model: {}")
    with pytest.raises(RequestError, match="no best weights yet"):
        best_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{not json")
    assert best_folder(tmp_path) == tmp_path
    with pytest.raises(RequestError, match="cannot be read as JSON"):
        Predictor.from_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model": "crossvit"}')
    with pytest.raises(RequestError, match="lacks the key 'options'"):
        Predictor.from_run(tmp_path)


def test_other_projects_files_are_left_alone(tmp_path: Path, tiny_run: Path) -> None:
    assert read_if_ours(tmp_path) is None
    assert read_if_ours(tiny_run / "best") == read_artifact(tiny_run / "best")
    shutil.copy(tiny_run / "best" / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "crossvit_9_240", "num_classes": 10}')
    assert read_if_ours(tmp_path) is None
    model = restore_model(read_artifact(tiny_run / "best"), tiny_run)
    assert load_weights(tmp_path, model, adapt=True, classes=list("abcdefghij"))["params"]
    (tmp_path / "config.json").write_text('{"model": "crossvit"}')
    with pytest.raises(RequestError, match="lacks the key 'options'"):
        load_weights(tmp_path, model)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, crosscale.artifact; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "flax", "PIL", "safetensors", "optax"} & set(done.stdout.split())


# ---- refusals ----


def changed(**changes: Any) -> Any:
    """Changes top-level keys of a good file; `...` takes one away; "a__b" is the key b of a."""

    def make(plain: dict[str, Any]) -> str:
        for path, value in changes.items():
            *sections, key = path.split("__")
            place = plain
            for section in sections:
                place = place[section]
            if value is ...:
                del place[key]
            else:
                place[key] = value
        return json.dumps(plain)

    return make


MALFORMED = {
    "a later schema": (changed(version=VERSION + 1), f"version: the file is of schema version {VERSION + 1}, and this"),
    "a later schema without today's keys": (lambda _: '{"version": 99}', "schema version 99, and this crosscale reads"),
    "a version that is a text": (changed(version="0.1.0"), "version: expected a whole number, got '0.1.0'"),
    "version 0": (changed(version=0), "version: 0 is below 1"),
    "empty": (lambda _: "", "cannot be read as JSON"),
    "no JSON": (lambda _: "{not json", "cannot be read as JSON"),
    "no UTF-8": (lambda _: b'{"model": "\xff"}', "cannot be read as JSON"),
    "a list": (lambda _: "[1, 2]", "lacks the key 'model'"),
    "a number": (lambda _: "5", "lacks the key 'model'"),
    "null": (lambda _: "null", "lacks the key 'model'"),
    "nested without end": (lambda _: "[" * 200_000, "nested too deeply"),
    "options nested deeply": (
        lambda plain: json.dumps(plain).replace('"options": {', '"options": {"depths": ' + "[" * 900 + "]" * 900 + ","),
        "nested too deeply",
    ),
    "too large": (lambda plain: json.dumps(plain) + " " * MAX_BYTES, "bytes are no config.json; it has at most"),
    "no model": (changed(model=...), "lacks the key 'model'"),
    "no options": (changed(options=...), "lacks the key 'options'; it needs model, options, num_classes"),
    "a misspelt key": (
        lambda plain: json.dumps({"class": plain.pop("classes"), **plain}),
        "lacks the key 'classes'; did you mean 'class'?",
    ),
    "options null": (changed(options=None), "options: expected key: value pairs, got null"),
    "options a list": (changed(options=[1]), "options: expected key: value pairs, got [1]"),
    "model a number": (changed(model=5), "model: expected a text, got 5"),
    "model a path": (changed(model="../../etc/passwd"), 'model: "../../etc/passwd" is no name'),
    "model an absolute path": (changed(model="/etc/passwd"), "is no name; one of letters"),
    "model a parent": (changed(model=".."), 'model: ".." is no name'),
    "model empty": (changed(model=""), 'model: "" is no name'),
    "unknown model": (changed(model="crossvid"), "unknown model 'crossvid'; did you mean 'crossvit'?"),
    "task a number": (changed(task=1), "task: expected a text, got 1"),
    "unknown task": (changed(task="clasification"), "unknown task 'clasification'; did you mean 'classification'"),
    "classes a text": (changed(classes="abc"), "classes: expected a list, each a text, got 'abc'"),
    "a class of a million numbers": (changed(classes=[[1] * 10**6]), "classes[0]: expected a text, got [1, 1, 1,"),
    "classes numbers": (changed(classes=[*"012345678", 9]), "classes[9]: expected a text, got 9"),
    "a class twice": (changed(classes=[*"012345678", "0"]), 'classes: "0" appears twice'),
    "half a character": (changed(classes=[*"012345678", "\ud800"]), "half a character"),
    "fewer classes": (changed(num_classes=11), "classes: 10 names, but num_classes is 11"),
    "num_classes negative": (changed(num_classes=-1, classes=[]), "num_classes: -1 lies outside 0..1,000,000"),
    "num_classes absurd": (changed(num_classes=10**9), "num_classes: 1,000,000,000 lies outside 0..1,000,000"),
    "num_classes true": (changed(num_classes=True), "num_classes: expected a whole number, got true"),
    "num_classes twice": (changed(options__num_classes=9), "options.num_classes: differs from num_classes"),
    "input_spec null": (changed(input_spec=None), "input_spec: expected key: value pairs, got null"),
    "input_spec unknown key": (changed(input_spec__sise=[8, 8]), "unknown key 'input_spec.sise'; did you mean"),
    "input_spec NaN": (changed(input_spec__mean=[math.nan]), "input_spec.mean: [NaN]: every entry must be a finite"),
    "input_spec infinite": (changed(input_spec__std=[math.inf]), "input_spec.std: [Infinity]: every entry must be"),
    "input_spec std 0": (
        changed(input_spec__std=[0]),
        "input_spec.std: [0.0]: every entry must be a finite num",
    ),
    "input_spec mean short": (changed(input_spec__mean=[]), "input_spec.mean: 0 numbers for 1 channels"),
    "input_spec crop mode": (changed(input_spec__crop_mode="fill"), "expected center or pad or squash, got 'fill'"),
    "input_spec crop": (changed(input_spec__crop_pct=math.nan), "input_spec.crop_pct: nan is not in 0 < value <= 1"),
    "input_spec filter": (changed(input_spec__interpolation="cubic"), "did you mean 'bicubic'?"),
    "input_spec size absurd": (changed(input_spec__size=[10**6, 16]), "input_spec.size: [1000000, 16] lies outside"),
    "input_spec size 0": (changed(input_spec__size=[0, 16]), "input_spec.size: [0, 16] lies outside 1..8192 pixels"),
    "input_spec size one": (changed(input_spec__size=[16]), "input_spec.size: expected a list of a whole number"),
    "input_spec channels": (changed(input_spec__channels=10**6), "input_spec.channels: 1000000 lies outside 1..1024"),
    "embed_dim absurd": (changed(options__embed_dim=[10**9, 16]), "options.embed_dim: 1000000000 is absurdly large"),
    "depth absurd": (changed(options__depth=[[10**6, 1, 0]]), "options.depth: 1000000 is absurdly large"),
    "depth many blocks": (changed(options__depth=[[900, 900, 1]]), "options.depth: 1,801 blocks in all; at most 512"),
    "img_size absurd": (changed(options__img_size=10**6), "options.img_size: 1000000 is absurdly large; at most 8,192"),
    "options many stages": (
        changed(options__depth=[[0, 0, 0]] * 65),
        "options.depth: a list of 65 entries; at most 64",
    ),
    "an option not finite": (changed(options__qk_scale=math.inf), "options.qk_scale: inf is not finite"),
    "an option long": (changed(options__fusion="x" * 201), "options.fusion: a text of 201 characters; at most 200"),
    "an option unknown": (changed(options__embed_dims=[8, 16]), "no option 'embed_dims'; did you mean 'embed_dim'?"),
    "an option that does not fit": (changed(options__num_heads=[3, 2]), "num_heads=3 does not divide the width 8"),
    "an option of another type": (changed(options__depth=5), "depth=5 is no list of stages: give one"),
    "a dtype that is none": (changed(options__dtype="floatx"), "config.json: dtype='floatx' is no floating-point type"),
    "a norm that is none": (changed(options__norm_layer="x"), "config.json: norm_layer='x' builds nothing"),
    "metrics a text": (changed(metrics="good"), "metrics: expected key: value pairs, got 'good'"),
    "a metric a text": (
        changed(metrics={"top1": "0.9"}),
        "metrics.top1: expected a number, or null for one that is no",
    ),
    "a metric true": (changed(metrics={"top1": True}), "metrics.top1: expected a number, or null"),
    "step a text": (changed(step="22"), "step: expected a whole number or null, got '22'"),
    "epoch negative": (changed(epoch=-1), "epoch: -1 is below 0"),
    "data a text": (changed(data="digits"), "data: expected key: value pairs, got 'digits'"),
    "data.dir a number": (changed(data={"dir": 5}), "data.dir: expected a text or null, got 5"),
    "data.dir no path": (changed(data={"dir": "a\0b"}), "data.dir: holds a zero byte"),
    "data.val_fraction": (changed(data={"val_fraction": math.nan}), "data: nan is not finite"),
    "data.val_fraction of all": (changed(data={"val_fraction": 1}), "data.val_fraction: 1.0 is not in 0 <= value < 1"),
    "data.seed": (changed(data={"seed": -1}), "data.seed: -1 lies outside"),
    "data.batch_size": (changed(data={"batch_size": 10**9}), "data.batch_size: 1000000000 lies outside 1..1,048,576"),
    "crosscale_version": (changed(crosscale_version=1), "crosscale_version: expected a text, got 1"),
}


@pytest.fixture
def malformed(tiny_run: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A run with such a file, and what has to be said of it."""
    make, message = MALFORMED[request.param]
    shutil.copytree(tiny_run, tmp_path / "run")
    file = tmp_path / "run" / "best" / "config.json"
    text = make(json.loads(file.read_text()))
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return tmp_path / "run", message


@pytest.mark.parametrize("malformed", MALFORMED, indirect=True)
def test_malformed_files_are_one_line(malformed: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    run, message = malformed
    with pytest.raises(RequestError) as raised:
        Predictor.from_run(run)
    text = str(raised.value)
    assert message in text
    assert text.startswith(f"{run / 'best' / 'config.json'}: ")
    assert len(text.splitlines()) == 1
    assert len(text) < len(str(run)) + 300
    picture = run / "picture.png"
    Image.new("L", (8, 8)).save(picture)
    assert main(["predict", "--run", str(run), str(picture)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"crosscale predict: error: {text}\n"


@pytest.mark.parametrize("malformed", ["options null", "a later schema"], indirect=True)
def test_every_reader_refuses_alike(malformed: tuple[Path, str], tiny_run: Path, tmp_path: Path) -> None:
    run, message = malformed
    good = read_artifact(tiny_run / "best")
    readers = [
        lambda: load_weights(run, restore_model(good, run)),
        lambda: load_teacher(str(run), None, good.labels, good.input_spec),
        lambda: model_of(str(run)),
        lambda: read_run(run),
    ]
    for reader in readers:
        with pytest.raises(RequestError) as raised:
            reader()
        assert message in str(raised.value)
    for words in (["validate", "--run", str(run)], ["convert", str(run), str(tmp_path / "x.safetensors")]):
        assert main(words) == 2


def test_an_equal_num_classes_among_the_options_is_read(tiny_run: Path, tmp_path: Path) -> None:
    plain = json.loads((tiny_run / "best" / "config.json").read_text())
    plain["options"]["num_classes"] = 10
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert read_artifact(tmp_path) == read_artifact(tiny_run / "best")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"dtype": float}}, "options.dtype: a type is nothing that JSON holds"),
        ({"extra": {"classes": []}}, "classes: a key of crosscale's own"),
        ({"task_options": {"mean": [math.nan]}}, "task_options: nan is not finite"),
        ({"labels": ("ant",)}, "classes: 1 names, but num_classes is 2"),
        ({"metrics": {"top1": "x"}}, "metrics.top1: expected a number"),
    ],
)
def test_nothing_malformed_is_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        replace(artifact(), **changes)
    assert message in str(raised.value)


def test_nothing_is_written_that_would_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="bytes; at most"):
        write_artifact(tmp_path, artifact(extra={"card": "x" * MAX_BYTES}))
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_json_cannot_hold_leaves_the_former_file(tmp_path: Path) -> None:
    write_artifact(tmp_path, artifact())
    with pytest.raises(RequestError, match="cannot be written as JSON"):
        write_artifact(tmp_path, artifact(extra={"card": object()}))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert read_artifact(tmp_path) == artifact()
