"""bfloat16 compute with float32 master weights trains the real digits as well as float32 does."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from crosscale.recipe import load
from crosscale.runs.train import run_training
from tests.reliability.record import trying
from tests.reliability.runs import last_state

# The digits' recipe, narrower; half of the pictures are held out, so that 0.5 points are four of them. With the larger
# batch, and no paths dropped, runs that differ in rounding alone come out a quarter of a point apart.
RECIPE = {
    "model.options.img_size": "[16, 16]",
    "model.options.patch_size": "[4, 8]",
    "model.options.embed_dim": "[32, 48]",
    "model.options.depth": "[[1, 1, 0], [1, 1, 0]]",
    "model.options.drop_path_rate": "0",
    "data.val_fraction": "0.5",
    "train.batch_size": "128",
    "train.epochs": "60",
    "optimizer.lr": "4e-3",
    "train.eval_every": "5",
}
SEEDS = (0, 1, 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_digits_come_out_within_half_a_point(tmp_path: Path) -> None:
    top1 = {}
    for dtype in ("float32", "bfloat16"):
        settings = {**RECIPE, "train.dtype": dtype}
        runs = [
            run_training(load("digits", {**settings, "train.seed": str(seed)}), tmp_path / f"{dtype}-{seed}")
            for seed in SEEDS
        ]
        assert {run["examples"] for run in runs} == {898}
        top1[dtype] = float(np.mean([run["top1"] for run in runs]))
    shown = ", ".join(f"{dtype} {100 * mean:.2f} %" for dtype, mean in top1.items())
    print(shown)
    with trying("bfloat16 compute", lost=f"top-1 on 898 held-out digits, mean over {len(SEEDS)} seeds: {shown}"):
        assert top1["float32"] > 0.97
        assert top1["bfloat16"] >= top1["float32"] - 0.005
        state = last_state(tmp_path / "bfloat16-0")
        assert {np.dtype(value.dtype).name for value in state.values()} == {"float32", "int32"}
        stored = load_file(tmp_path / "bfloat16-0" / "best" / "model.safetensors")
        assert {value.dtype.name for value in stored.values()} == {"float32"}
