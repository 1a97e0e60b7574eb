"""What a model was never shown is mostly unknown to it: printed letters and photographs, given to a digits model."""

import pytest

from benchmarks.strangers import letters, photographs, typefaces, unknown
from crosscale.predictor import Predictor
from crosscale.recipe import load
from crosscale.runs.calibrate import calibrate_run
from crosscale.runs.train import run_training
from crosscale.runs.validate import HeldOut
from tests.reliability.runs import SMALL


@pytest.mark.slow
def test_strangers_are_unknown_and_sure_digits_are_right(tmp_path):
    """Of the smallest real training; benchmarks/strangers.py measures a good model's."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage")
    run = tmp_path / "run"
    run_training(load("smoke", {**SMALL, "train.epochs": "14", "train.eval_every": "14"}), run)
    found = calibrate_run(run, HeldOut(), precision=0.98)
    assert found["coverage"] > 0.25
    assert found["precision"] >= 0.98
    predictor = Predictor.from_run(run)
    assert unknown(predictor, list(letters(typefaces()))) > 0.5
    assert unknown(predictor, list(photographs())) > 0.5
