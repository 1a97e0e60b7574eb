"""A whole small run on the real digits: its folder, its best weights alone, and what cannot be built."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscale.artifact import WEIGHTS, file_digest, read_artifact
from crosscale.contracts import Record
from crosscale.engine.loop import Loop
from crosscale.engine.run_folder import locked
from crosscale.errors import RequestError, WorkError
from crosscale.recipe import Recipe, load
from crosscale.runs.experiment import build, describe
from crosscale.runs.train import run_training
from crosscale.runs.validate import evaluate_run
from tests.reliability.runs import numbers

# One branch and no mixing: compiles several times faster than the whole recipe, which the command's tests run.
SMALL = {
    "model.options.img_size": "[16]",
    "model.options.patch_size": "[4]",
    "model.options.embed_dim": "[16]",
    "model.options.depth": "[[1, 0]]",
    "model.options.num_heads": "[2]",
    "model.options.mlp_ratio": "[2]",
    "model.options.fusion": "none",
    "augment.erase_prob": "0",
    "augment.mixup": "0",
    "augment.cutmix": "0",
}
SHORT = {"train.epochs": "2", "train.log_every": "5"}


def small(overrides: dict[str, str]) -> Recipe:
    return load("smoke", {**SMALL, **overrides})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    return folder, run_training(small(SHORT), folder)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == kind]


def test_the_best_weights_carry_their_digest_and_the_log_tells_the_time(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = run
    best = folder / "best"
    assert read_artifact(best).weights_digest == file_digest(best / WEIGHTS) != ""
    assert re.search(r"done: best top-1 .*, in \d+ s; ", (folder / "log.txt").read_text())


def test_the_run_folder_is_complete(run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = run
    names = {p.name for p in folder.iterdir()} - {".lock"}
    assert names == {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "best",
        "tensorboard",
        "log.txt",
    }
    assert {p.name for p in (folder / "best").iterdir()} == {"model.safetensors", "config.json"}
    assert result["steps"] == 44
    assert result["epochs"] == 2
    assert result["stopped"] is None
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["22", "44"]


def test_the_metrics_say_what_happened(run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = run
    train, validate = lines(folder, "train"), lines(folder, "validate")
    assert [line["step"] for line in train] == list(range(5, 45, 5))
    assert [line["epoch"] for line in validate] == [1, 2]
    assert all(0 <= line["data_wait"] <= 1 and line["images_per_second"] > 0 for line in train)
    assert validate[-1]["loss"] < validate[0]["loss"] < np.log(10)
    best = max(validate, key=lambda line: (line["top1"], -line["loss"]))
    assert (result["top1"], result["best_step"]) == (best["top1"], best["step"])
    assert result["examples"] == 359


def test_the_recipe_of_the_run_has_the_class_names(run: tuple[Path, dict[str, Any]]) -> None:
    recipe = load(run[0] / "recipe.yaml")
    assert recipe.data.classes == tuple("0123456789")
    assert recipe.train.epochs == 2


def test_the_best_weights_alone_repeat_the_logged_numbers(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = run
    shutil.copytree(folder / "best", tmp_path / "alone")
    again = evaluate_run(run=tmp_path / "alone").numbers
    keys = ("top1", "top5", "loss", "examples")
    assert {key: again[key] for key in keys} == {key: result[key] for key in keys}


def test_the_config_is_enough_to_rebuild_the_model(run: tuple[Path, dict[str, Any]]) -> None:
    config = json.loads((run[0] / "best" / "config.json").read_text())
    assert config["num_classes"] == 10
    assert config["input_spec"]["size"] == [16, 16]
    assert config["metrics"]["top1"] == run[1]["top1"]


def test_a_finished_run_resumes_to_the_same_result(run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = run
    before = (folder / "metrics.jsonl").read_text()
    again = run_training(load(folder / "recipe.yaml"), folder, resume=True)
    assert {k: again[k] for k in ("top1", "loss", "steps", "best_step")} == {
        k: result[k] for k in ("top1", "loss", "steps", "best_step")
    }
    assert (folder / "metrics.jsonl").read_text() == before


def test_another_run_s_folder_is_refused(run: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match="already holds a run; --resume goes on with it"):
        run_training(small(SHORT), run[0])


def test_resuming_with_another_recipe_is_refused(run: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match=r"was begun with optimizer.lr=0.01, not 0.5"):
        run_training(small({**SHORT, "optimizer.lr": "0.5"}), run[0], resume=True)


def test_a_folder_that_is_being_written_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "r"), pytest.raises(RequestError, match="another process is training into it"):
        run_training(small({}), tmp_path / "r")


def test_other_classes_than_the_run_s_are_refused(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", ["cat", "dog"])
    with pytest.raises(RequestError, match="the class 'cat' is not one of the 10"):
        evaluate_run(run=run[0], data_dir=tmp_path / "data")


def test_labels_are_matched_by_class_name(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A folder without the first class, so that every label stands one place lower than the model's."""
    from crosscale.data import open_source, write_image_folder
    from crosscale.predictor import Predictor

    sources = {split: WithoutFirst(open_source("digits", split)) for split in ("train", "val")}
    write_image_folder(sources, tmp_path / "data")
    files = sorted((tmp_path / "data" / "val").rglob("*.png"))
    predictions = Predictor.from_run(run[0]).predict(files)
    right = sum(p.classes[0] == file.parent.name for p, file in zip(predictions, files, strict=True))
    result = evaluate_run(run=run[0], data_dir=tmp_path / "data").numbers
    assert result["examples"] == len(files) == len(sources["val"])
    assert result["top1"] == pytest.approx(right / len(files))
    assert right > 0


class WithoutFirst:
    """A source without the examples of its first class."""

    def __init__(self, whole: Any) -> None:
        self.classes = whole.classes[1:]
        self._records = [record for i in range(len(whole)) if (record := whole[i]).target > 0]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        return replace(record, target=record.target - 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.dir": "null"}, "data.dir is not set"),
        ({"data.dir": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"model.options.num_classes": "7"}, "model.options.num_classes=7, but digits has 10 classes"),
        ({"model.name": "crossvit_9_24"}, "unknown model 'crossvit_9_24'; did you mean"),
        ({"model.options.embed_dimm": "[8, 8]"}, "has no option 'embed_dimm'; did you mean 'embed_dim'"),
        ({"data.mean": "[0.1, 0.2, 0.3]"}, "data.mean=[0.1, 0.2, 0.3]: the model takes 1 channels"),
        ({"data.classes": "['a', 'b']"}, "data.classes: the class 'a' is missing in digits"),
        ({"train.batch_size": "5000"}, "batch_size=5000"),
        ({"schedule.warmup_epochs": "4"}, "schedule.warmup_epochs=4 is longer than train.epochs=3"),
        ({"train.batch_size": "63", "optimizer.accumulate": "2"}, "train.batch_size=63 does not divide"),
    ],
)
def test_what_cannot_be_built_is_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError) as error:
        build(small(overrides))
    assert message in str(error.value)


def test_pretrained_weights_are_where_training_starts(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    weights = run[0] / "best" / "model.safetensors"
    overrides = {
        "model.pretrained": str(weights),
        "optimizer.frozen": "['.*']",
        "train.epochs": "1",
        "train.ema_decay": "null",
    }
    result = run_training(small(overrides), tmp_path / "r")
    assert result["top1"] == run[1]["top1"]  # nothing moved
    with pytest.raises(RequestError, match=r"none\.safetensors"):
        run_training(small({"model.pretrained": str(tmp_path / "none.safetensors")}), tmp_path / "q")


def test_describe_counts_without_training() -> None:
    facts = describe(build(small({})))
    assert (facts["train_images"], facts["val_images"], facts["classes"]) == (1438, 359, 10)
    assert facts["steps"] == 3 * (1438 // 64)
    assert facts["learning_rate"][0] == pytest.approx(1e-6)


def write_pictures(folder: Path, classes: list[str], broken: bool = False) -> None:
    """40 training pictures and 8 held-out ones per class; `broken` cuts one of the training ones off."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 8)):
        for label, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                shade = rng.integers(0, 100, (16, 16), dtype=np.uint8) + 150 * label
                Image.fromarray(shade.astype(np.uint8)).save(place / f"{i}.png")
    if broken:
        path = folder / "train" / classes[0] / "7.png"
        path.write_bytes(path.read_bytes()[:60])


def test_a_broken_picture_ends_the_run_or_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "data", ["dark", "light"], broken=True)
    overrides = {"data.dir": str(tmp_path / "data"), "train.epochs": "2", "train.batch_size": "16"}
    with pytest.raises(WorkError, match=r"train/dark/7.png"):
        run_training(small(overrides), tmp_path / "error")
    result = run_training(small({**overrides, "data.on_bad_image": "skip"}), tmp_path / "skip")
    assert result["skipped_images"] == 2  # once an epoch
    assert "train/dark/7.png" in capsys.readouterr().err
    assert result["top1"] == 1.0


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_loss_that_is_not_finite_is_named_or_left_out(tmp_path: Path, policy: str) -> None:
    overrides = {
        **SHORT,
        "train.on_nonfinite": policy,
        "train.epochs": "1",
        "optimizer.name": "sgd",
        "optimizer.lr": "1e30",
        "optimizer.clip_norm": "null",
        "schedule.warmup_epochs": "0",
    }
    recipe = small(overrides)
    if policy == "error":
        with pytest.raises(WorkError, match=r"step \d+: the loss \(\w+\) is not finite; of \d+ tensors .* 'backbone/"):
            run_training(recipe, tmp_path / "r")
        return
    result = run_training(recipe, tmp_path / "r")
    assert result["steps"] == 22
    assert result["skipped_steps"] > 0
    assert len(lines(tmp_path / "r", "nonfinite")) == result["skipped_steps"]


@pytest.mark.slow
def test_early_stop_ends_after_its_patience(tmp_path: Path) -> None:
    overrides = {"train.epochs": "50", "train.early_stop_epochs": "2", "optimizer.frozen": "['.*']"}
    result = run_training(small(overrides), tmp_path / "r")
    assert result["epochs"] == 3  # the first is the best, and two more are waited for


@pytest.mark.slow
def test_bfloat16_trains_and_is_rebuilt(tmp_path: Path) -> None:
    result = run_training(small({"train.dtype": "bfloat16", "train.epochs": "2"}), tmp_path / "r")
    assert result["loss"] < np.log(10)
    again = evaluate_run(run=tmp_path / "r").numbers
    assert again["top1"] == result["top1"]


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), ValueError("no such norm"), KeyError("x")])
def test_options_that_fail_where_parameters_are_made_are_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from crosscale.runs import experiment

    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(experiment, "variable_shapes", fails)
    recipe = small({"train.epochs": "1"})
    for made in (build, experiment.check_without_data):
        with pytest.raises(RequestError, match=r"model\.options: no crossvit can be built from them \(.+\)"):
            made(recipe)


COUNTED = {
    "data.dir": "digits",
    "train.steps": "5",
    "train.eval_steps": "2",
    "train.log_every": "2",
    "train.checkpoint_every": "1",
    "schedule.warmup_epochs": "0",
}


def records(folder: Path) -> list[dict[str, Any]]:
    """Of the metrics, without what the clock decides."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in found]


@pytest.mark.slow  # of two whole runs; tests/engine/test_loop.py has the same of the loop alone
def test_a_run_of_steps_stops_anywhere_and_goes_on_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its validations come at steps 2, 4 and 5, in the middle of an epoch; a stop at step 3 changes nothing."""
    recipe = small(COUNTED)
    whole = run_training(recipe, tmp_path / "whole")
    assert (whole["steps"], whole["stopped"]) == (5, None)
    found = records(tmp_path / "whole")
    assert [line["step"] for line in found if line["kind"] == "validate"] == [2, 4, 5]
    assert [line["epoch"] for line in found if line["kind"] == "validate"] == pytest.approx([2 / 22, 4 / 22, 5 / 22])
    assert json.loads((tmp_path / "whole/best/config.json").read_text())["step"] == whole["best_step"]

    take = Loop._take_step

    def cut(loop: Loop, batches: Any) -> None:
        if loop.step == 3:
            raise KeyboardInterrupt
        take(loop, batches)

    monkeypatch.setattr(Loop, "_take_step", cut)
    with pytest.raises(KeyboardInterrupt):
        run_training(recipe, tmp_path / "run")
    monkeypatch.setattr(Loop, "_take_step", take)
    rest = run_training(recipe, tmp_path / "run", resume=True)
    for name in ("loss", "top1", "best_step", "steps"):
        assert rest[name] == whole[name], name
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


def test_a_crop_mode_that_shows_the_whole_picture() -> None:
    found = build(small({"data.crop_mode": "pad"}))
    assert (found.artifact.input_spec.crop_mode, found.spec.crop_pct) == ("pad", 1.0)
    assert build(small({"data.crop_mode": "center", "data.crop_pct": "null"})).spec.crop_pct == 0.875
    assert build(small({"data.crop_mode": "squash", "data.crop_pct": "null"})).spec.crop_pct == 1.0
