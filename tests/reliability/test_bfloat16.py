"""bfloat16 compute with float32 master weights trains the real digits as well as float32 does."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from crosscale.build import run_training
from crosscale.recipe import load
from tests.reliability.record import trying
from tests.reliability.runs import last_state

# The digits' recipe, narrower and shorter; half of the pictures are held out, so that 0.5 points are four of them.
RECIPE = {
    "model.options.img_size": "[16, 16]",
    "model.options.patch_size": "[4, 8]",
    "model.options.embed_dim": "[32, 48]",
    "model.options.depth": "[[1, 1, 0], [1, 1, 0]]",
    "data.val_fraction": "0.5",
    "train.epochs": "30",
    "optimizer.lr": "2e-3",
    "train.eval_every": "5",
}


@pytest.mark.slow
def test_the_digits_come_out_within_half_a_point(tmp_path: Path) -> None:
    results = {}
    for dtype in ("float32", "bfloat16"):
        results[dtype] = run_training(load("digits", {**RECIPE, "train.dtype": dtype}), tmp_path / dtype)
    shown = ", ".join(f"{dtype} {100 * result['top1']:.2f} %" for dtype, result in results.items())
    print(shown)
    with trying("bfloat16 compute", lost=f"best top-1 on 898 held-out digits: {shown}"):
        assert results["float32"]["examples"] > 800
        assert results["float32"]["top1"] > 0.95
        assert abs(results["float32"]["top1"] - results["bfloat16"]["top1"]) <= 0.005
        state = last_state(tmp_path / "bfloat16")
        assert {np.dtype(value.dtype).name for value in state.values()} == {"float32", "int32"}
        stored = load_file(tmp_path / "bfloat16" / "best" / "model.safetensors")
        assert {value.dtype.name for value in stored.values()} == {"float32"}
