"""The data of a run is listed once, and not at all for a model that does not exist."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosscale.data import scan
from crosscale.errors import RequestError
from crosscale.recipe import load
from crosscale.runs import starting
from crosscale.runs.experiment import build


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of five grey pictures, of which a part is held out."""
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The class folders that were listed for pictures, one entry each time."""
    seen: list[str] = []
    real = scan._image_files

    def counted(root: Path, folder: str, *more: Any) -> tuple[list[str], list[str]]:
        seen.append(folder)
        return real(root, folder, *more)

    monkeypatch.setattr(scan, "_image_files", counted)
    return seen


def recipe_on(photos: Path, **more: str) -> Any:
    return load("smoke", {"data.dir": str(photos), "train.batch_size": "2", **more})


def test_both_splits_share_one_listing(photos: Path, listed: list[str]) -> None:
    experiment = build(recipe_on(photos))
    assert (len(experiment.train_source), len(experiment.val_source)) == (8, 2)
    assert sorted(listed) == ["a", "b"]


def test_a_second_run_lists_anew(photos: Path, listed: list[str]) -> None:
    build(recipe_on(photos))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(photos / "a" / "new.png")
    experiment = build(recipe_on(photos))
    assert len(experiment.train_source) + len(experiment.val_source) == 11
    assert sorted(listed) == ["a", "a", "b", "b"]


def test_a_model_that_does_not_exist_is_refused_first(photos: Path, listed: list[str]) -> None:
    with pytest.raises(RequestError, match="unknown model 'crossvit_9_24'; did you mean"):
        build(recipe_on(photos, **{"model.name": "crossvit_9_24"}))
    assert listed == []


def test_fine_tuning_opens_what_the_run_goes_on_with(
    photos: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"img_size": [[24, 24], [24, 24]], "depth": [[1, 1, 0]]}
    monkeypatch.setattr(starting, "model_of", lambda source: {"name": "crossvit_tiny_240", "options": options})
    start = starting.from_weights({"model.pretrained": "weights.safetensors", "data.dir": str(photos)})
    experiment = build(start.recipe, splits=start.splits)
    assert (len(experiment.train_source), len(experiment.val_source)) == (8, 2)
    assert sorted(listed) == ["a", "b"]
