"""Nothing is no success: no picture held out, none that decodes, only one class, an empty batch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.data.table import open_table
from crosscale.errors import RequestError
from crosscale.models.registry import create_model
from crosscale.predictor import Predictor
from crosscale.runs.validate import HeldOut, open_held_out
from tests.conftest import TINY_CROSSVIT

MODEL = [f"--model.options.{name}={json.dumps(value)}" for name, value in TINY_CROSSVIT.items()]
TINY = [
    "--model=crossvit",
    *MODEL,
    "--train.batch_size=2",
    "--train.epochs=2",
    "--validate.batch_size=2",
    "--schedule.warmup_epochs=0",
]


def folder(root, files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (16, 16, 3), np.uint8)).save(root / name)
    return root


def train(data, out, *words, status=0):
    assert main(["train", "--data-dir", str(data), "--output-dir", str(out), *TINY, *words]) == status


def test_one_picture_in_every_class(tmp_path):
    root = folder(tmp_path / "d", ["a/0.png", "b/0.png", "c/0.png"])
    with pytest.raises(RequestError, match=r"too few pictures to hold any out .*--data\.val_fraction 0"):
        open_source(root, "val")
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
    with pytest.raises(RequestError, match=r"x\.npz: too few pictures"):
        open_source(tmp_path / "x.npz", "train")
    (root / "t.csv").write_text("path,y\na/0.png,1\n")
    with pytest.raises(RequestError, match=r"t\.csv: too few pictures"):
        open_table(root / "t.csv", "train", val_fraction=0.2, seed=0)
    assert len(open_source(root, "train", val_fraction=0)) == 3


def test_a_line_names_only_options_that_the_command_has(tiny_run):
    pytest.importorskip("sklearn")
    task, stored = Predictor.from_run(tiny_run).task, {"dir": "digits", "val_fraction": 0.0, "seed": 0}
    said = []
    for offers in ({"offers_split": True}, {}, {"offers_data": False}):
        with pytest.raises(RequestError) as error:
            open_held_out(task, HeldOut(), stored, "RUN", **offers)
        said.append(str(error.value))
    bare = "RUN: nothing was held out of digits (data.val_fraction 0)"
    with_data = f"{bare}; give other data with --data-dir"
    assert said == [f"{with_data}, or measure what it was trained on with --split train", with_data, bare]


@pytest.mark.slow
def test_training_on_everything(tmp_path, capsys):
    data = folder(tmp_path / "d", [f"{name}/{i}.png" for name in "ab" for i in range(2)])
    train(data, tmp_path / "run", "--data.val_fraction", "0", "--json")
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["top1"], result["best_epoch"], result["steps"]) == (None, 2, 4)
    assert "done: trained on every picture, so nothing was measured" in captured.err
    (item,) = Predictor.from_run(tmp_path / "run").predict(data / "a" / "0.png")
    assert item.error is None
    assert main(["validate", "--run", str(tmp_path / "run")]) == 2
    assert "nothing was held out of" in capsys.readouterr().err
    assert main(["validate", "--run", str(tmp_path / "run"), "--split", "train"]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "--split" not in capsys.readouterr().err
    assert main(["export", "--run", str(tmp_path / "run"), "--compare"]) == 2
    assert "--split" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "val"])
def test_nothing_that_decodes(tmp_path, capsys, part):
    data = folder(
        tmp_path / "d", [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in "01"]
    )
    for file in (data / part).rglob("*.png"):
        file.write_text("no picture")
    train(data, tmp_path / "run", "--data.on_bad_image", "skip", status=1)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert ("none of its pictures could be decoded" if part == "train" else "none of the 4 held-out pictures") in said
    assert not (tmp_path / "run" / "best").exists()


def test_one_class_alone_is_refused_with_what_was_meant(tmp_path, capsys):
    data = folder(tmp_path / "unpacked", [f"photos/{name}/{i}.png" for name in "ab" for i in range(3)])
    train(data, tmp_path / "run", status=2)
    assert f"which holds others (a, b): give {data / 'photos'}" in capsys.readouterr().err
    data = folder(tmp_path / "table", [f"images/{i}.png" for i in range(4)])
    (data / "labels.csv").write_text("path,y\nimages/0.png,1\n")
    train(data, tmp_path / "run", status=2)
    assert f"give --data-dir {data / 'labels.csv'}, and for numbers --task.name" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 16, 16, 3), np.uint8), labels=np.zeros(4, np.int64))
    train(tmp_path / "x.npz", tmp_path / "run", status=2)
    assert "only one class, '0'; a classification needs two classes or more" in capsys.readouterr().err
    data = folder(tmp_path / "plain", [f"train/cat/{i}.png" for i in range(3)] + ["val/cat/0.png"])
    train(data, tmp_path / "run", status=2)
    assert f"{data}: has only one class, 'cat'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["crossvit", "crossformer"])
def test_an_empty_batch_gives_an_empty_result(family):
    options = (
        TINY_CROSSVIT
        if family == "crossvit"
        else {
            "img_size": 32,
            "embed_dim": 16,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 1, 1),
            "group_size": (1, 1, 1, 1),
        }
    )
    model = create_model(family, **options, num_classes=3)
    images = jnp.zeros((2, *model.input_size, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert model.apply(variables, images[:0]).shape == (0, 3)
    assert jax.jit(model.apply)(variables, images[:0]).shape == (0, 3)
    full, none = (
        jax.eval_shape(lambda x: model.apply(variables, x, method="features"), x) for x in (images, images[:0])
    )
    assert [x.shape for x in jax.tree.leaves(none)] == [(0, *x.shape[1:]) for x in jax.tree.leaves(full)]
