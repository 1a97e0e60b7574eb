"""Calibrates a trained run: what the task makes of its outputs on held-out pictures, kept with the best weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.artifact import best_folder, read_artifact, write_artifact
from crosscale.contracts import Source
from crosscale.data import eval_batches
from crosscale.data.pipeline import OnBadImage
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.runs.validate import DEFAULT_BATCH, HeldOut, open_held_out, stored_data


def calibrate_run(
    run: str | Path, asked: HeldOut, *, on_bad_image: OnBadImage = "error", **wanted: Any
) -> dict[str, Any]:
    """Chooses what can be chosen after training, and writes it into `best/config.json`.

    Args:
      asked: the data to choose on.
      on_bad_image: what a picture that does not decode does.
      **wanted: of the task; see its `calibrated`.

    Returns:
      The task's numbers, "examples", "data_dir" and "split".

    Raises:
      RequestError: the run or the data is missing, the task has nothing to calibrate, or what is wanted cannot be had.
      WorkError: a picture does not decode, or nothing follows from the pictures.
    """
    folder = best_folder(run)
    predictor, stored = Predictor.from_run(folder), stored_data(folder)
    task = predictor.task
    task.check_calibration()  # before a pass over the pictures
    source, place = open_held_out(task, asked, stored, run, offers_split=True)
    size = int(stored.get("batch_size", DEFAULT_BATCH))
    numbers = calibrate_best(predictor, folder, source, place, batch_size=size, on_bad_image=on_bad_image, **wanted)
    return {**numbers, "data_dir": str(place), "split": asked.split}


def calibrate_best(
    predictor: Predictor,
    folder: Path,
    source: Source,
    place: str | Path | None,
    *,
    batch_size: int,
    on_bad_image: OnBadImage,
    **wanted: Any,
) -> dict[str, Any]:
    """Chooses on the examples of a source, and writes it into the folder's `config.json`.

    Args:
      predictor: of the folder's weights.
      source: counted as the predictor's task counts.
      place: of the data, for the error.
      batch_size: pictures per forward, at most.
      **wanted: of the task; see its `calibrated`.

    Returns:
      The task's numbers and "examples".

    Raises:
      RequestError: what is wanted cannot be had.
      WorkError: a picture does not decode, or nothing follows from the pictures.
    """
    task, size = predictor.task, max(1, min(batch_size, len(source)))
    outputs: list[np.ndarray] = []
    targets: dict[str, list[np.ndarray]] = {}
    with eval_batches(source, task.examples(predictor.spec), batch_size=size, on_bad_image=on_bad_image) as batches:
        for batch in batches:
            real = np.asarray(batch.weight) > 0
            outputs.append(np.asarray(predictor.outputs(batch.image), np.float32)[real])
            for name, array in batch.arrays.items():
                if name != "image":
                    targets.setdefault(name, []).append(np.asarray(array)[real])
    found = np.concatenate(outputs)
    if not len(found):
        raise RequestError(f"{place}: none of the held-out pictures can be read")
    if not np.isfinite(found).all():
        raise RequestError(f"{folder}: the model's outputs are not finite, so that nothing follows from them")
    chosen, numbers = task.calibrated(found, {name: np.concatenate(x) for name, x in targets.items()}, **wanted)
    write_artifact(folder, replace(read_artifact(folder), task_options=chosen.artifact_options()))
    return {**numbers, "examples": len(found)}
