"""Every format that is installed, side by side: size, deviation, accuracy and speed of one model."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crosscale.errors import RequestError, WorkError
from crosscale.export import onnx
from crosscale.export.accuracy import measured
from crosscale.export.engines import quickest
from crosscale.export.export import INT8_FORMATS, TOLERANCE, export
from crosscale.export.formats import FORMATS, FormatName, Run
from crosscale.export.int8 import Int8
from crosscale.export.program import Program
from crosscale.predictor import Predictor


@dataclass(frozen=True)
class Compared:
    """One row.

    Attributes:
      name: of the format, with " int8" behind it where it is rounded; "jax" is the model as it is.
      size: of its files, in bytes; for the model, of its weights.
      deviation: the largest difference from the model's outputs, as a share of the largest output.
      accuracy: the task's best measure on the held-out examples.
      images_per_second: of its quickest turn.
      reason: why it is missing; None where it is there.
    """

    name: str
    size: int | None = None
    deviation: float | None = None
    accuracy: float | None = None
    images_per_second: float | None = None
    reason: str | None = None


def compare(
    predictor: Predictor,
    int8: Int8,
    *,
    batch_size: int = 8,
    seconds: float = 2.0,
    opset: int = onnx.OPSET,
    tolerance: float = TOLERANCE,
    pictures: Sequence[str | Path] = (),
    on_phase: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Compared]:
    """Exports the model in every format that is installed, and measures the programs in turns.

    Args:
      int8: pictures to calibrate on and to measure accuracy by; its limit on losses does not count here.
      batch_size: pictures at once when speed is measured.
      seconds: about how long each is timed.
      opset: see `export`.
      tolerance: see `export`; a format beyond it is missing, and its row says so.
      pictures: see `export`.
      on_phase: told what is done next, how many phases are done, and of how many.

    Raises:
      WorkError: a picture does not decode.
    """
    program = Program(predictor)
    rounded = replace(int8, max_drop=math.inf)
    wanted: list[tuple[str, FormatName, Int8 | None]] = [(form, form, None) for form in FORMATS]
    wanted += [(f"{form} int8", form, rounded) for form in INT8_FORMATS]
    weights = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(predictor.variables))
    rows, runs = {"jax": Compared("jax", weights, 0.0)}, {"jax": _jax(program)}
    phases = len(wanted) + 2
    how: dict[str, Any] = {"pictures": pictures, "platforms": _PLATFORMS, "opset": opset, "tolerance": tolerance}
    with tempfile.TemporaryDirectory(prefix="crosscale-compare-") as folder:
        for done, (name, form, rounding) in enumerate(wanted):
            on_phase(f"exporting {name}", done, phases)
            file = Path(folder) / f"{name.replace(' ', '-')}{FORMATS[form].suffix}"
            try:
                made = export(predictor, file, format=form, int8=rounding, **how)
            except (RequestError, WorkError) as error:
                rows[name] = Compared(name, reason=str(error))
                continue
            runs[name] = FORMATS[form].open(file)
            accuracy = None if made.int8 is None else made.int8["after"]
            rows[name] = Compared(name, made.size, made.deviation, accuracy)
        on_phase("measuring accuracy", len(wanted), phases)
        best = predictor.task.best
        for name, run in runs.items():
            if rows[name].accuracy is None:
                rows[name] = replace(rows[name], accuracy=float(measured(program, run, int8.source)[best]))
        on_phase("measuring speed", len(wanted) + 1, phases)
        batch = np.resize(int8.pictures, (batch_size, *int8.pictures.shape[1:]))
        for name, spent in quickest(runs, batch, seconds).items():
            rows[name] = replace(rows[name], images_per_second=batch_size / spent)
    on_phase("done", phases, phases)
    return list(rows.values())


_PLATFORMS = ("cpu",)  # what it is measured on


def _jax(program: Program) -> Run:
    run, variables = jax.jit(program.__call__), program.predictor.variables
    return lambda images: np.asarray(run(variables, images))
