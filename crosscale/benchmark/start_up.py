"""How long a first prediction and a first training step take, with and without programs compiled before."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from crosscale.benchmark.machine import describe_machine, load_average
from crosscale.benchmark.speed import Request, measure
from crosscale.errors import WorkError
from crosscale.models.registry import create_model
from crosscale.pretrained import parameter_shapes, save_weights, variables_of
from crosscale.runtime import COMPILE_CACHE


def measure_start_up(model: str = "crossvit_9_240", batch_size: int = 16, rounds: int = 3) -> dict[str, Any]:
    """Runs `crosscale predict` and the training step in fresh processes.

    Returns:
      "machine"; "predict": seconds from start to exit, "cold" (nothing compiled before), "warm" (median over the
      rounds) and "off" (with the cache switched off); "train": seconds of trace, compilation and first step, "cold"
      and "warm", "step", those of one step, and "parts", by "cold" and "warm" those of "trace", "lower" and "compile".

    Raises:
      WorkError: a command failed.
    """
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="crosscale-bench-") as place:
        folder = Path(place)
        _write_inputs(folder, model)
        cold = predict_seconds(folder, model)
        warm = median(predict_seconds(folder, model) for _ in range(rounds))
        off = predict_seconds(folder, model, cache=False)
    step = measure(Request("train", (model,), (batch_size,), rounds=rounds, seconds=0.1))["rows"][0]
    return {
        "mode": "start_up",
        "model": model,
        "machine": {**describe_machine([step]), "load_before": before, "load_after": load_average()},
        "predict": {"cold": cold, "warm": warm, "off": off},
        "train": {
            "batch_size": batch_size,
            "cold": step["first_call_cold"],
            "warm": step["first_call_warm"],
            "step": step["ms"] / 1e3,
            "parts": step["first_call_parts"],
        },
    }


def _write_inputs(folder: Path, name: str) -> None:
    """Random weights and one random photograph."""
    model = create_model(name)
    rng = np.random.default_rng(0)
    values = {key: rng.normal(0, 0.02, shape).astype(np.float32) for key, shape in parameter_shapes(model).items()}
    save_weights(folder / "weights.safetensors", variables_of(values, model), model)
    Image.fromarray(rng.integers(0, 256, (375, 500, 3), np.uint8)).save(folder / "photo.jpg")


def predict_seconds(folder: Path, model: str, *, cache: bool = True) -> float:
    """Seconds of wall clock of one `crosscale predict` on the folder's photo.jpg with its weights.safetensors.

    The cache lies in the folder, too. Raises WorkError when the command fails.
    """
    environment = {name: value for name, value in os.environ.items() if not re.match("JAX_(COMP|PERS)", name)}
    environment |= {"CROSSCALE_CACHE": str(folder / "cache"), COMPILE_CACHE: "1" if cache else "0"}
    words = ["predict", "--model", model, "--weights", str(folder / "weights.safetensors"), str(folder / "photo.jpg")]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "crosscale", *words], env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise WorkError(f"crosscale predict failed: {done.stderr.strip()}")
    return seconds
