"""The user's pictures for an exported program: training ones to calibrate on, held-out ones to judge by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosscale.errors import RequestError
from crosscale.export.accuracy import Spaced, prepared
from crosscale.export.int8 import Int8
from crosscale.predictor import Predictor
from crosscale.runs.validate import HeldOut, open_held_out, stored_data

CALIBRATION = 128  # training pictures


@dataclass(frozen=True)
class Asked:
    """Which pictures, and how many.

    Attributes:
      data_dir: as `crosscale.data.open_source` takes it; None is the run's own.
      calibration: training pictures to calibrate on, evenly spaced over their source.
      most: held-out examples to judge by, evenly spaced likewise; None for all.
      max_drop: see `Int8`.
    """

    data_dir: str | Path | None = None
    calibration: int = CALIBRATION
    most: int | None = None
    max_drop: float = 1.0


def open_int8(predictor: Predictor, run: str | Path | None, asked: Asked) -> Int8:
    """Reads the pictures.

    Args:
      run: whose data it is; None for a model without a run, with `asked.data_dir`.

    Raises:
      RequestError: nobody says where the data is, it does not fit the model, or its task has no probabilities.
      BadImage: a training picture does not decode.
    """
    task = predictor.task
    if run is None and asked.data_dir is None:
        raise RequestError("--int8 and --compare need pictures: a run brings its own, --model needs --data-dir D")
    try:
        task.outputs_of(np.full((1, len(task.labels)), 0.5))
    except RequestError:
        raise RequestError(
            f"--int8 and --compare judge programs by probabilities of classes, which {task.name} does not give"
        ) from None
    stored = {} if run is None else stored_data(run)
    place = str(asked.data_dir) if run is None else run
    held_out, _ = open_held_out(task, HeldOut(asked.data_dir), stored, place)
    training, _ = open_held_out(task, HeldOut(asked.data_dir, "train"), stored, place)
    some = held_out if asked.most is None else Spaced(held_out, asked.most)
    return Int8(prepared(predictor, Spaced(training, asked.calibration)), some, asked.max_drop)
