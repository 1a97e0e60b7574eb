"""`crosscale validate` on a whole folder, and at another crop."""

import json

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for digit in range(10):
        folder = tmp_path / "photos" / "val" / str(digit)
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (24, 24), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_all_of_one_part_and_another_crop(tiny_run, pictures, capsys):
    words = ["validate", "--run", str(tiny_run), "--split", "all", "--json", "--batch-size", "20"]
    results = []
    for crop in ([], ["--crop-pct", "1.0"], ["--crop-pct", "0.5"]):
        assert main([*words, "--data-dir", str(pictures / "val"), *crop]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert [result["examples"] for result in results] == [20, 20, 20]
    assert results[0]["loss"] == results[1]["loss"]  # the weights' own crop
    assert abs(results[0]["loss"] - results[2]["loss"]) > 1e-6


def test_folder_of_val_alone(tiny_run, pictures, capsys):
    assert main(["validate", "--run", str(tiny_run), "--data-dir", str(pictures)]) == 2
    assert "has val/ but no train/" in capsys.readouterr().err


def test_crop_that_cannot_be(tiny_run, capsys):
    assert main(["validate", "--run", str(tiny_run), "--crop-pct", "1.5"]) == 2
    assert "above 0 and up to 1" in capsys.readouterr().err
