"""`crosscale train` with its data alone: what is chosen for the data and the machine, and what is said of it."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.recipe import load
from crosscale.runs import starting
from crosscale.runtime import shown_duration
from tests.conftest import TINY_CROSSVIT

TINY = ["--model=crossvit", *(f"--model.options.{name}={json.dumps(value)}" for name, value in TINY_CROSSVIT.items())]


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            picture = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
            picture.save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def test_the_folder_alone(photos, monkeypatch):
    monkeypatch.setattr(starting, "_products_per_second", lambda: 1e10)
    recipe, name, splits, lines = starting.from_data({"data.dir": str(photos)})
    assert (name, len(splits[0]), len(splits[1])) == ("photos", 16, 4)
    assert (recipe.train.batch_size, recipe.train.epochs, recipe.train.log_every) == (4, 100, 4)
    assert recipe.model.name == "crossvit_tiny_240"
    assert recipe.model.options == {"img_size": [120, 112]}
    assert len(lines) == 3
    assert "crossvit_tiny_240 at 120 x 120 pixels" in lines[0]
    assert "16 pictures to train on, 4 held out: batch 4, 100 epochs, 400 steps; about 8 min 47 s" in lines[1]
    assert "recipe 'photos': adamw at 0.0005" in lines[2]


def test_an_accelerator_trains_the_whole_preset(photos, monkeypatch):
    monkeypatch.setattr(starting, "_products_per_second", lambda: 1e10)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    recipe, _, _, lines = starting.from_data({"data.dir": str(photos)})
    assert recipe.model == load("photos").model
    assert "crossvit_9_240 at 240 x 240 pixels (for 1 x " in lines[0]


def test_what_is_given_stays(photos):
    given = {"data.dir": str(photos), "train.batch_size": "8", "train.epochs": "2", "model.name": "crossvit"}
    given |= {f"model.options.{name}": json.dumps(value) for name, value in TINY_CROSSVIT.items()}
    recipe, _, _, lines = starting.from_data(given)
    assert (recipe.train.batch_size, recipe.train.epochs) == (8, 2)
    assert recipe.model.name == "crossvit"
    assert "(as given)" in lines[0]


@pytest.mark.parametrize(("epochs", "warmup"), [("1", 0.2), ("2", 0.4), ("300", 2)])
def test_a_first_look_of_few_epochs_has_a_short_warm_up(photos, epochs, warmup):
    given = {"data.dir": str(photos), "train.epochs": epochs, "model.name": "crossvit"}
    given |= {f"model.options.{name}": json.dumps(value) for name, value in TINY_CROSSVIT.items()}
    recipe = starting.from_data(given)[0]
    assert (recipe.train.epochs, recipe.schedule.warmup_epochs) == (int(epochs), warmup)
    assert starting.from_data(given | {"schedule.warmup_epochs": "0.5"})[0].schedule.warmup_epochs == 0.5


@pytest.mark.slow
def test_it_trains(photos, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "--data-dir", str(photos), "--output-dir", str(out), "--train.epochs=2", *TINY]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert [line.split(":")[0] for line in said.splitlines()[:3]] == ["model", "data", "recipe 'photos'"]
    assert " %  " in next(line for line in said.splitlines() if line.startswith("epoch 2/2"))  # top-1, as at the end
    assert "top1 0." not in said
    *_, page, following, predict, explain, serve = said.splitlines()
    assert (page, following) == (f"The run's page: {out / 'report.html'}", "Next:")
    assert [line.split()[:4] for line in (predict, explain, serve)] == [
        ["crosscale", verb, "--run", str(out)] for verb in ("predict", "explain", "serve")
    ]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum(record["kind"] == "train" for record in records) == 2  # a line an epoch at least
    assert all(record["seconds"] > 0 and record["lr"] > 0 for record in records if record["kind"] == "epoch")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (41, "41 s"), (60, "1 min"), (192, "3 min 12 s"), (19_200, "5 h 20 min"), (273_700, "3 d 4 h")],
)
def test_durations(seconds, text):
    assert shown_duration(seconds) == text
