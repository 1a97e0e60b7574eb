"""Whether two processes, or a run and the one that goes on with it, train the same: the recipe and the data."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from crosscale.artifact import file_digest
from crosscale.cluster.hosts import from_first, is_first
from crosscale.data.listing import listing, same
from crosscale.engine.environment import record_environment
from crosscale.engine.run_folder import ENVIRONMENT, RECIPE
from crosscale.errors import RequestError
from crosscale.pretrained.teacher import teacher_file
from crosscale.recipe import differences, load, parse
from crosscale.runs.experiment import Experiment

# May differ between the processes of a run: where and how fast they read.
LOADING_KEYS = frozenset({"data.dir", "data.root", "data.workers", "data.threads"})
# May differ when a run goes on: they change where it runs and how fast, not what it computes.
FREE_KEYS = LOADING_KEYS | {
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.trackers",
    "mesh.data",
    "mesh.fsdp",
}


def check_processes(experiment: Experiment) -> None:
    """Raises RequestError where this process is about to train something other than the first one."""
    images = [len(experiment.train_source), len(experiment.val_source)]
    text = from_first(json.dumps({"recipe": asdict(experiment.recipe), "images": images}))
    if is_first():
        return
    said, process = json.loads(text), jax.process_index()
    for key, (first, own) in differences(parse(said["recipe"]), experiment.recipe).items():
        if key not in LOADING_KEYS:
            raise RequestError(f"process {process} was given {key}={own}, but process 0 {first}; give all alike")
    if said["images"] != images:
        raise RequestError(
            f"process {process} finds {images[0]} images to train on and {images[1]} held out in "
            f"{experiment.recipe.data.dir}, but process 0 {said['images'][0]} and {said['images'][1]}"
        )


def check_same(folder: Path, experiment: Experiment, *, extend: bool = False) -> None:
    """Raises RequestError where the run in `folder`, if there is one, was begun with another recipe or other data.

    Args:
      extend: whether more epochs than the run was begun with are wanted.
    """
    if not (folder / RECIPE).exists():
        return
    for key, (old, new) in differences(load(folder / RECIPE), experiment.recipe).items():
        if key in FREE_KEYS or (extend and key == "train.epochs" and new > old):
            continue
        hint = "; --extend N trains N more epochs" if key == "train.epochs" and new > old else ""
        raise RequestError(
            f"--resume: {folder} was begun with {key}={old}, not {new}{hint}; "
            "go on with the same, or choose another --output-dir"
        )
    _check_data(folder, experiment)


def record_data(folder: Path, experiment: Experiment) -> None:
    """Writes what the run's data holds, and which weights teach, for whoever goes on with it."""
    record_environment(folder, data=_recorded(experiment))


def _check_data(folder: Path, experiment: Experiment) -> None:
    try:
        begun = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError):
        begun = None
    if not isinstance(begun, dict):  # a run of an older version
        return
    found = _recorded(experiment)
    if "teacher" in begun and begun["teacher"] != found["teacher"]:
        raise RequestError(
            f"--resume: {folder} was begun with another teacher: {experiment.recipe.distill.teacher} has other weights "
            "now; bring them back, or choose another --output-dir"
        )
    for part, words in (("train", "to train on"), ("val", "held out")):
        old, new = begun.get(part) or {}, found[part]
        if same(old, new):
            continue
        what = (
            f"{old.get('images')} images {words}, now there are {new['images']}"
            if old.get("images") != new["images"]
            else f"other images {words}, or other labels for them"
        )
        raise RequestError(
            f"--resume: {folder} was begun with {what}; bring the data back to what it was, or begin anew from "
            f"what was learnt: another --output-dir with --pretrained {folder}"
        )


def _recorded(experiment: Experiment) -> dict[str, Any]:
    """The listing of each part of the data, and the digest of the teacher's weights where there is a teacher."""
    found: dict[str, Any] = {"train": listing(experiment.train_source), "val": listing(experiment.val_source)}
    settings = experiment.recipe.distill
    if settings.teacher is not None:
        found["teacher"] = file_digest(teacher_file(settings.teacher, settings.weights))
    return found
