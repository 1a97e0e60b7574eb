"""Views and several models: against means that are computed by hand, and what cannot be averaged."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from crosscale.artifact import read_artifact, write_artifact
from crosscale.cli.main import main
from crosscale.contracts import InputSpec
from crosscale.data import open_source
from crosscale.data.views import CORNERS, View, views
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.runs.ensemble import Ensemble
from crosscale.tasks.registry import task_kind
from tests.seeded import seeded_run

SPEC = InputSpec(size=(16, 16), channels=1, mean=(0.3,), std=(0.4,), crop_pct=1.0)


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor.from_run(tiny_run)


@pytest.fixture(scope="module")
def pictures():
    source = open_source("digits", "val")
    return [np.asarray(Image.fromarray(source[i].image).resize((20, 16), Image.Resampling.BICUBIC)) for i in range(5)]


def probabilities(predictor, pictures):
    """(N, labels) in label order."""
    rows = []
    for result in predictor.predict(pictures, batch_size=4, top_k=10):
        named = dict(zip(result.classes, result.probabilities, strict=True))
        rows.append([named[name] for name in predictor.task.labels])
    return np.array(rows)


def cut(picture, share, top, left):
    """Resized so that the shorter side is 16 / share, and cut; written out with Pillow alone."""
    short = int(16 / share)
    img = Image.fromarray(picture).resize((int(short * 20 / 16), short), Image.Resampling.BICUBIC)
    y, x = round((img.height - 16) * top), round((img.width - 16) * left)
    return np.asarray(img)[y : y + 16, x : x + 16]


@pytest.mark.parametrize("names", [("flips",), ("crops",), ("scales",), ("flips", "scales")])
def test_views_are_averaged(predictor, pictures, names):
    shares = [1.0, 0.875] if "scales" in names else [0.875] if "crops" in names else [1.0]
    places = CORNERS if "crops" in names else [(0.5, 0.5)]
    shown = [[cut(picture, share, *place) for picture in pictures] for share in shares for place in places]
    if "flips" in names:
        shown += [[picture[:, ::-1] for picture in view] for view in shown]
    expected = np.mean([probabilities(predictor, view) for view in shown], 0)
    found = probabilities(Ensemble([predictor], names), pictures)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(found - probabilities(predictor, pictures)).max() > 1e-4


def test_without_views_a_model_alone_is_itself(predictor, pictures):
    np.testing.assert_allclose(
        probabilities(Ensemble([predictor]), pictures), probabilities(predictor, pictures), atol=1e-6
    )


def test_sets_of_views():
    spec = InputSpec(size=(224, 224), crop_pct=0.8)
    assert views((), spec) == (View(0.8),)
    assert [view.mirrored for view in views(["flips"], spec)] == [False, True]
    assert [view.crop_pct for view in views(["scales"], spec)] == pytest.approx([0.8, 0.8 * 8 / 7, 0.7])
    assert len(views(["flips", "crops", "scales"], spec)) == 2 * 5 * 3
    with pytest.raises(RequestError, match="--tta flip: one or several of flips, crops, scales; did you mean 'flips'"):
        views(["flip"], spec)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Other weights for other pictures: RGB of 12 pixels; with a temperature."""
    options = {"img_size": [12], "patch_size": [4], "embed_dim": [8], "depth": [[1, 0]], "num_heads": [2],
               "mlp_ratio": [1.0], "fusion": "none"}  # fmt: skip
    told = {"input_spec": replace(SPEC, size=(12, 12), channels=3, mean=(0.3,) * 3, std=(0.4,) * 3)}
    folder = tmp_path_factory.mktemp("other")
    return seeded_run(folder, "crossvit", options, tuple("0123456789"), task_options={"temperature": 0.05}, **told)


def test_models_are_averaged_each_with_its_own_preprocessing_and_temperature(
    predictor, other, tiny_run, pictures, tmp_path, capsys
):
    second = Predictor.from_run(other)
    expected = (probabilities(predictor, pictures) + probabilities(second, pictures)) / 2
    both = Ensemble([predictor, second])
    np.testing.assert_allclose(probabilities(both, pictures), expected, atol=2e-6)
    # On files, of which one is none, through the command.
    files = []
    for place, picture in enumerate(pictures):
        files.append(str(tmp_path / f"{place}.png"))
        Image.fromarray(picture).save(files[-1])
    (tmp_path / "2.png").write_text("no picture")
    words = ["predict", "--run", str(tiny_run), "--run", str(other), *files, "--json", "--top-k", "1"]
    assert main(words) == 1
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [item["error"] is None for item in found] == [True, True, False, True, True]
    assert [item["probabilities"] for item in found if not item["error"]] == [
        [pytest.approx(row.max(), abs=2e-6)] for row in np.delete(expected, 2, 0)
    ]


def test_a_threshold_is_the_first_models(predictor, pictures):
    strict = copy.copy(predictor)  # the same compiled program
    strict.task = replace(predictor.task, reject=1.0)
    assert [r.rejected for r in Ensemble([strict, predictor]).predict(pictures, batch_size=4)] == [True] * 5
    assert [r.rejected for r in Ensemble([predictor, strict]).predict(pictures, batch_size=4)] == [False] * 5


def test_other_classes_and_tasks_are_refused_in_one_line(tiny_run, other, tmp_path, capsys):
    shutil.copytree(other, tmp_path / "run")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    artifact = read_artifact(tmp_path / "run" / "best")
    for labels, difference in (
        ((*"123456789", "ten"), "the class '0' is missing"),
        ((*"1234567890",), "the classes are in another order"),
    ):
        write_artifact(tmp_path / "run" / "best", replace(artifact, labels=labels))
        assert main(["predict", "--run", str(tiny_run), "--run", str(tmp_path / "run"), str(tmp_path / "a.png")]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert f"cannot be averaged with {tiny_run}/best/model.safetensors: {difference}" in line


def test_outputs_of_probabilities_give_them_back():
    chances = np.random.default_rng(0).dirichlet(np.ones(4), 6)
    chances[0] = [0, 0, 1, 0]
    for name, options in (("classification", {"temperature": 3.0}), ("multilabel", {})):
        task = task_kind(name).from_artifact(list("abcd"), options)
        np.testing.assert_allclose(task.activate(task.outputs_of(chances)), chances, atol=1e-6)
    with pytest.raises(RequestError, match=r"the task segmentation has no probabilities .* it has --task.window"):
        task_kind("segmentation").outputs_of(task_kind("segmentation"), chances)
