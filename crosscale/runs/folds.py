"""Cross-validation: one run for each fold, in one folder, and their mean."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscale.cluster.hosts import from_first, is_first
from crosscale.engine.run_folder import RECIPE, holds_run, started, write_text
from crosscale.errors import RequestError
from crosscale.recipe import Recipe, differences, dump, load
from crosscale.runs.agreement import FREE_KEYS
from crosscale.runs.batch_size import with_batch_size
from crosscale.runs.places import with_data_paths
from crosscale.runs.train import run_training
from crosscale.runtime import tell
from crosscale.tasks.registry import task_kind

RESULTS = "folds.json"
"""In the folder of all folds: what `run_training` gave for each that is done."""

Train = Callable[[Recipe, Path, bool], dict[str, Any]]  # (recipe, folder, whether a run there goes on) -> its result


def _train(recipe: Recipe, folder: Path, resume: bool) -> dict[str, Any]:
    return run_training(recipe, folder, resume=resume)


def run_folds(recipe: Recipe, output_dir: Path, *, resume: bool = False, train: Train = _train) -> dict[str, Any]:
    """Trains a run for each fold of `recipe.data.folds`, into fold-1, fold-2, ... of `output_dir`.

    Folds that are done are kept when `resume` goes on; one that was begun goes on from its checkpoint.

    Args:
      train: trains one of them, as `run_training` does.

    Returns:
      "folds" (each one's result, as `run_training` gives it), "mean" and "deviation" (of each of the task's measures;
      the deviation is the standard deviation of a fold, with n - 1), "stopped" (a signal's name or None) and
      "output_dir".

    Raises:
      RequestError: the recipe cannot be run, or the folder holds other runs.
      WorkError: a run failed.
    """
    count = recipe.data.folds
    if count is None or recipe.data.fold is not None:
        raise RequestError("run_folds needs data.folds, the number of folds, and data.fold null")
    folder = Path(from_first(str(output_dir.expanduser().resolve())))
    if is_first() and not resume and holds_run(folder):
        raise RequestError(f"{folder}: already holds a run; --resume goes on with it, or choose another --output-dir")
    stored = folder / RECIPE
    if resume and stored.is_file():
        _check_same(folder, load(stored), recipe)
    recipe, _ = with_batch_size(with_data_paths(recipe), folder=folder if resume else None)  # the same for all folds
    with ExitStack() as held:
        if is_first():
            held.enter_context(started(folder, lambda: any(map(holds_run, folder.glob("fold-*")))))
            write_text(stored, dump(recipe))
        done: list[dict[str, Any]] = json.loads(from_first(json.dumps(_done(folder) if resume else [])))
        stopped = None
        for number in range(len(done) + 1, count + 1):
            place = folder / f"fold-{number}"
            if is_first():
                tell(f"fold {number} of {count}: {place}")
            own = replace(recipe, data=replace(recipe.data, fold=number))
            result = train(own, place, bool(json.loads(from_first(json.dumps(holds_run(place))))))
            stopped = result["stopped"]
            if stopped is not None:
                break
            done.append(result)
            if is_first():
                write_text(folder / RESULTS, json.dumps(done))
    measures = task_kind(recipe.task.name).measures
    return {"folds": done, **spread(done, list(measures)), "stopped": stopped, "output_dir": str(folder)}


def fold_folders(folder: Path) -> list[Path]:
    """The folders of the finished folds in a folder that `run_folds` trained into; none for any other."""
    return [folder / f"fold-{number}" for number in range(1, len(_done(folder)) + 1)]


def spread(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """ "mean" and "deviation" by name over the results that have the number; None where too few do: the deviation,
    the standard deviation with n - 1, takes two."""
    found: dict[str, dict[str, float | None]] = {"mean": {}, "deviation": {}}
    for name in names:
        values = [float(result[name]) for result in results if isinstance(result.get(name), int | float)]
        found["mean"][name] = statistics.fmean(values) if values else None
        found["deviation"][name] = statistics.stdev(values) if len(values) > 1 else None
    return found


def _check_same(folder: Path, old: Recipe, new: Recipe) -> None:
    """Raises RequestError where the folds in the folder were begun with another recipe."""
    for key, (before, now) in differences(old, new).items():
        if key not in FREE_KEYS and (key, now) != ("train.batch_size", "auto"):
            raise RequestError(
                f"--resume: {folder} was begun with {key}={before}, not {now}; go on with the same, or choose another "
                "--output-dir"
            )


def _done(folder: Path) -> list[dict[str, Any]]:
    """The results of the folds that are done, as far as they follow one another."""
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) and all(isinstance(result, dict) for result in found) else []
