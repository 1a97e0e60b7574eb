"""Pictures that go bad while a run trains: what is told, and that nothing written before is lost."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

import crosscale.runs.train as building
from crosscale.errors import WorkError
from crosscale.recipe import load
from crosscale.runs.train import run_training

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
    "train.epochs": "5",
    "train.batch_size": "8",
    "train.log_every": "1",
    "validate.batch_size": "8",
}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("bright", 200)):
        for split, count in (("train", 16), ("val", 4)):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = (level + rng.integers(-40, 40, (16, 16))).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / label / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def in_third_epoch(monkeypatch):
    """Calls a function when the second epoch's validation begins."""

    def arrange(function):
        calls = []
        original = building.eval_batches

        def wrapped(*arguments, **options):
            calls.append(None)
            if len(calls) == 2:
                function()
            return original(*arguments, **options)

        monkeypatch.setattr(building, "eval_batches", wrapped)

    return arrange


def epochs(run):
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["epoch"] for record in records if record["kind"] == "validate"]


@pytest.mark.slow
def test_error_names_the_file_and_the_run_can_go_on(folder, tmp_path, in_third_epoch):
    recipe = load("smoke", {**SMALL, "data.dir": str(folder)})
    run = tmp_path / "run"
    whole = {path: path.read_bytes() for path in (folder / "train").rglob("*.png")}

    def cut_short():
        for path, data in whole.items():
            path.write_bytes(data[: len(data) // 2])

    in_third_epoch(cut_short)
    with pytest.raises(WorkError, match=r"train/(dark|bright)/\d+\.png: .*set on_bad_image: skip") as caught:
        run_training(recipe, run)
    assert "\n" not in str(caught.value)
    assert epochs(run) == [1, 2]
    assert (run / "best" / "model.safetensors").stat().st_size > 0
    assert "ended by WorkError" in (run / "log.txt").read_text()
    for path, data in whole.items():
        path.write_bytes(data)
    result = run_training(recipe, run, resume=True)
    assert epochs(run) == [1, 2, 3, 4, 5]
    assert (result["steps"], result["stopped"]) == (20, None)


@pytest.mark.slow
def test_shard_that_is_cut_short_in_the_third_epoch(folder, tmp_path, in_third_epoch):
    shards = tmp_path / "shards"
    shards.mkdir()
    for split in ("train", "val"):
        with tarfile.open(shards / f"x-{split}-0.tar", "w") as tar:
            tar.add(folder / split, arcname=".")
    recipe = load("smoke", {**SMALL, "data.dir": str(shards)})
    shard, run = shards / "x-train-0.tar", tmp_path / "run"
    whole = shard.read_bytes()
    in_third_epoch(lambda: shard.write_bytes(whole[:2000]))
    with pytest.raises(
        WorkError, match=r"x-train-0\.tar/(dark|bright)/\d+\.png: the shard is cut short before the end"
    ):
        run_training(recipe, run)
    assert epochs(run) == [1, 2]
    shard.write_bytes(whole)
    assert run_training(recipe, run, resume=True)["steps"] == 20


@pytest.mark.slow
def test_skip_goes_on_without_the_file_and_counts_it(folder, tmp_path, in_third_epoch):
    recipe = load("smoke", {**SMALL, "data.dir": str(folder), "data.on_bad_image": "skip"})
    bad = folder / "train" / "dark" / "3.png"
    in_third_epoch(bad.unlink)
    (folder / "val" / "bright" / "2.png").write_bytes(b"x")
    result = run_training(recipe, tmp_path / "run")
    assert result["steps"] == 20
    assert 1 <= result["skipped_images"] <= 3  # once an epoch; what was read ahead is not counted
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("skipped: ") == 2  # each is named once
    assert "val/bright/2.png: not an image" in log
    assert "train/dark/3.png: no such file" in log
