"""Fine-tuning from weights that timm made: better than from scratch, frozen parts stay, a teacher teaches."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.errors import RequestError
from crosscale.pretrained import load_weights
from crosscale.pretrained.finetuning import fitting_sizes, model_of
from crosscale.recipe import load
from crosscale.runs.train import run_training
from crosscale.trees import flatten
from crosscale.weights.files import read_tensors
from tests.conftest import TINY_CROSSVIT

WEIGHTS = Path(__file__).parent / "golden" / "digits" / "timm_0_to_4.safetensors"
SHORT = {"train.epochs": "1", "train.ema_decay": "null", "augment.cutmix": "0", "augment.mixup": "0"}


def trained(folder, **overrides):
    recipe = load("smoke", {**SHORT, **{key.replace("__", "."): value for key, value in overrides.items()}})
    return run_training(recipe, folder)


@pytest.fixture(scope="module")
def from_scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "scratch"
    return folder, trained(folder)


@pytest.mark.slow
def test_fine_tuning_beats_the_same_run_from_scratch(from_scratch, tmp_path):
    scratch = from_scratch[1]
    tuned = trained(tmp_path / "run", model__pretrained=str(WEIGHTS))
    assert tuned["top1"] > scratch["top1"] + 0.05
    assert tuned["loss"] < scratch["loss"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "new head (10 classes instead of 5); the rest is kept" in log
    assert "under the names of 'timm'" in log


def test_linear_probing_moves_the_head_alone(tmp_path):
    trained(tmp_path / "run", model__pretrained=str(WEIGHTS), optimizer__frozen='["backbone/.*"]')
    from crosscale.predictor import Predictor

    model = Predictor.from_run(tmp_path / "run").model
    before = flatten(load_weights(WEIGHTS, model, adapt=True)["params"])
    after = flatten(load_weights(tmp_path / "run", model)["params"])
    for name, value in before.items():
        assert np.array_equal(after[name], value) == name.startswith("backbone/"), name


@pytest.mark.slow
def test_a_run_teaches_another(from_scratch, tmp_path):
    folder, _ = from_scratch
    taught = trained(tmp_path / "run", distill__teacher=str(folder), distill__kind="hard", distill__share="1.0")
    assert np.isfinite(taught["loss"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    plain = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [[line["loss"] for line in run if line["kind"] == "train"] for run in (lines, plain)]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_the_model_of_a_file_or_run(from_scratch, tmp_path):
    assert model_of(str(from_scratch[0]))["name"] == "crossvit"
    with pytest.raises(RequestError, match=r"weights of no preset.*--model M"):
        model_of(str(WEIGHTS))
    assert len(read_tensors(WEIGHTS)) > 50


def test_sizes_fit_the_data():
    assert fitting_sizes(10, 1, 32) == {"batch_size": 2, "epochs": 80, "log_every": 5}
    assert fitting_sizes(3, 1, 32)["batch_size"] == 1
    assert fitting_sizes(5_000, 1, 32) == {"batch_size": 32, "epochs": 20, "log_every": 20}
    assert fitting_sizes(1_000_000, 8, 32) == {"batch_size": 32, "epochs": 10, "log_every": 20}
    assert fitting_sizes(100, 8, 32) == {"batch_size": 24, "epochs": 100, "log_every": 4}


@pytest.mark.slow
def test_without_a_recipe(from_scratch, tmp_path, capsys):
    """`train --pretrained RUN --data-dir photos`: the model, the recipe and the sizes are chosen and said."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(6):
            picture = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
            picture.save(tmp_path / "photos" / name / f"{index}.png")
    words = ["train", "--pretrained", from_scratch[0], "--data-dir", tmp_path / "photos", "--train.epochs", 1]
    assert main([*map(str, words), "--output-dir", str(tmp_path / "run")]) == 0
    error = capsys.readouterr().err
    assert "fine-tuning crossvit with the recipe 'finetune': 1 epochs, batch 2, adamw" in error
    assert "new head (2 classes instead of 10); the rest is kept" in error
    recipe = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "layer_decay: 0.75" in recipe
    assert "classes: [cats, dogs]" in recipe


@pytest.mark.slow
def test_twenty_thousand_classes(tmp_path):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(picture)
    for part in ("train", "val"):
        for index in range(20_000):
            folder = tmp_path / "photos" / part / f"{index:05}"
            folder.mkdir(parents=True)
            (folder / "0.png").hardlink_to(picture)
    options = {f"model.options.{name}": json.dumps(value) for name, value in TINY_CROSSVIT.items()}
    recipe = load(
        "finetune",
        {**options, "model.name": "crossvit", "data.dir": str(tmp_path / "photos"), "model.pretrained": str(WEIGHTS),
         "model.pretrained_only": '["backbone/embed_0/cls"]', "model.options.embed_dim": "[16, 24]",
         "model.options.depth": "[[1, 1, 0]]",
         "train.epochs": "1", "train.batch_size": "1000", "validate.batch_size": "1000"},
    )  # fmt: skip
    assert run_training(recipe, tmp_path / "run")["examples"] == 20_000
