"""Small real runs as processes: what they are started with, and what of them has to be equal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

TRAIN = [sys.executable, "-m", "crosscale", "train"]
# Timing differs from run to run; nothing else may.
TIMED = ("images_per_second", "data_wait", "seconds")
# One branch and no mixing: compiles several times faster than the whole recipe.
SMALL = {
    "model.options.img_size": "[16]",
    "model.options.patch_size": "[4]",
    "model.options.embed_dim": "[16]",
    "model.options.depth": "[[1, 0]]",
    "model.options.num_heads": "[2]",
    "model.options.mlp_ratio": "[2]",
    "model.options.fusion": "none",
    "augment.erase_prob": "0",
    "augment.mixup": "0",
    "augment.cutmix": "0",
}


def words(recipe: dict[str, str]) -> list[str]:
    """The command line's words for the smoke recipe with the small model and these keys."""
    given = {**SMALL, **recipe}
    return ["--config", "smoke", *(word for key, value in given.items() for word in (f"--{key}", value))]


def train(*arguments: str, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
    """Runs `crosscale train` to its end."""
    return subprocess.run([*TRAIN, *arguments], capture_output=True, text=True, timeout=timeout)


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Starts `crosscale train` in a process group of its own, so that its workers can be found."""
    return subprocess.Popen(
        [*TRAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def records(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics, also while it runs."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The records without what depends on the clock."""
    return [{key: value for key, value in record.items() if key not in TIMED} for record in records(folder)]


def checkpoints(folder: Path) -> list[int]:
    """Steps of the whole checkpoints."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())


def assert_same_run(folder: Path, other: Path) -> None:
    """Metrics, best weights and last checkpoint are equal to the last bit."""
    assert numbers(folder) == numbers(other)
    best = [load_file(place / "best" / "model.safetensors") for place in (folder, other)]
    assert_same_arrays(*best)
    assert checkpoints(folder)[-1] == checkpoints(other)[-1]
    assert_same_arrays(*(last_state(place) for place in (folder, other)))


def assert_same_arrays(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def last_state(folder: Path) -> dict[str, Any]:
    """Every array of the newest checkpoint: step, parameters, optimizer state and average."""
    import jax
    import orbax.checkpoint as ocp

    path = (folder / "checkpoints" / str(checkpoints(folder)[-1]) / "state").resolve()
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(path)
    return {jax.tree_util.keystr(place): leaf for place, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def children(process: int) -> list[int]:
    """Process ids of the children, those of the children included (Linux)."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


def ended(processes: list[int], seconds: float = 10.0) -> bool:
    """Whether all of them end in this time; one that only waits to be reaped has ended (Linux)."""
    deadline = time.monotonic() + seconds
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def open_files(process: int) -> int:
    """How many file descriptors a process holds (Linux)."""
    return len(os.listdir(f"/proc/{process}/fd"))
