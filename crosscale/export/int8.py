"""Products in whole numbers of 8 bits, calibrated on pictures and judged on held-out ones.

onnxruntime's static quantisation in its QDQ form: weights per channel, activations by the range that the calibration
pictures reach. Only products with weights are rounded; attention's own products, normalisations and activations stay in
float32.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.contracts import Source
from crosscale.errors import WorkError
from crosscale.export.accuracy import lost, measured
from crosscale.export.formats import Run
from crosscale.export.onnx import add_description
from crosscale.export.program import Program

CALIBRATION_BATCH = 8
ROUNDED = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Int8:
    """What an int8 program is made from and judged by.

    Attributes:
      pictures: (N, H, W, C) uint8 to calibrate on, prepared as for prediction; no held-out ones.
      source: held-out examples.
      max_drop: how much may be lost by the task's best measure: points of a percentage, or percent of a number that
        is no share.
    """

    pictures: np.ndarray
    source: Source
    max_drop: float = 1.0


@dataclass(frozen=True)
class Judged:
    """What the rounding costs.

    Attributes:
      measure: the task's best measure, by name.
      before: of the float32 program.
      after: of the int8 program.
      drop: as `Int8.max_drop` counts it.
      examples: held-out examples.
      calibrated_on: pictures.
    """

    measure: str
    before: float
    after: float
    drop: float
    examples: int
    calibrated_on: int


def quantise_onnx(file: Path, target: Path, program: Program, pictures: np.ndarray, config: dict[str, Any]) -> None:
    """An ONNX file with its products of weights in int8.

    Args:
      pictures: (N, H, W, C) uint8.
      config: the description, for the metadata of the new file.

    Raises:
      WorkError: onnxruntime's tools failed.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._batches = _batches(program, pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    ready = file.with_suffix(".ready.onnx")
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the tools log on the root
    try:
        # Without its optimisation, which joins products and biases to Gemm: from that the quantiser of onnxruntime 1.31
        # makes scales that do not fit their bias.
        quant_pre_process(os.fspath(file), os.fspath(ready), skip_symbolic_shape=True, skip_optimization=True)
        quantize_static(
            os.fspath(ready),
            os.fspath(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(ROUNDED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        model = onnx.load(os.fspath(target))
    except Exception as error:  # of many types, below Exception alone
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WorkError(f"onnxruntime cannot quantise {type(program.predictor.model).__name__}: {reason}") from None
    finally:
        logging.root.setLevel(level)
        ready.unlink(missing_ok=True)
    del model.metadata_props[:]
    add_description(model, config)
    onnx.save(model, os.fspath(target))


def _batches(program: Program, pictures: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(pictures), CALIBRATION_BATCH):
        yield {"images": program.prepare(pictures[start : start + CALIBRATION_BATCH])}


def judge(program: Program, before: Run, after: Run, int8: Int8) -> Judged:
    """What the rounding costs on the held-out examples. Raises WorkError where that is more than `max_drop`."""
    task = program.predictor.task
    measure = task.measures[task.best]
    numbers = [measured(program, run, int8.source) for run in (before, after)]
    values = [float(found[task.best]) for found in numbers]
    drop, examples = lost(measure, *values), round(numbers[0]["examples"])
    if not drop <= int8.max_drop:
        unit = "points" if measure.share else "percent"
        raise WorkError(
            f"int8 loses {drop:.2f} {unit} of {measure.label}, more than --max-drop {int8.max_drop:g}: "
            f"{measure.shown(values[0])} in float32, {measure.shown(values[1])} in int8, on {examples:,} held-out "
            "images; nothing was written"
        )
    return Judged(task.best, values[0], values[1], drop, examples, len(int8.pictures))
