"""OpenVINO, which reads ONNX files and runs them on a processor."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.errors import WorkError
from crosscale.export.onnx import OPSET, as_text, write_onnx
from crosscale.export.program import Program

# On a processor with bfloat16 units OpenVINO would round to it unasked.
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
SECTION = "crosscale"  # of the description, in OpenVINO's runtime information


def load_openvino() -> Any:
    """The library, without the usage statistics that its import would send unasked, from a process that it forks.

    It goes without them where the package that sends them is missing.
    """
    modules: dict[str, Any] = sys.modules  # None: that there is no such module
    if "openvino" in modules or "openvino_telemetry" in modules:
        import openvino

        return openvino
    modules["openvino_telemetry"] = None
    try:
        import openvino
    finally:
        del modules["openvino_telemetry"]
    return openvino


def write_openvino(program: Program, file: Path, opset: int = OPSET) -> dict[str, Any]:
    """Writes FILE.xml and, beside it, FILE.bin with the weights, and returns the description, which the first holds.

    The batch is open and the picture's size fixed. Raises RequestError and WorkError as `write_onnx`.
    """
    source = file.with_suffix(".onnx")
    config = {**write_onnx(program, source, opset), "format": "openvino"}
    onnx_to_openvino(source, file, config)
    source.unlink()
    return config


def onnx_to_openvino(source: Path, file: Path, config: dict[str, Any]) -> None:
    """An ONNX file in OpenVINO's own format, its weights as they are. Raises WorkError where it cannot be read."""
    openvino = load_openvino()
    try:
        model = openvino.Core().read_model(os.fspath(source))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise WorkError(f"OpenVINO cannot read the ONNX program (... {reason}); --format onnx may do") from None
    for key, value in config.items():
        model.set_rt_info(as_text(value), [SECTION, key])
    openvino.save_model(model, os.fspath(file), compress_to_fp16=False)


def open_openvino(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file, or OpenVINO's own, as a function of a batch, in float32 on the CPU.

    Every batch size is compiled when it first comes: OpenVINO's programs for an open batch are slower.
    """
    core = load_openvino().Core()
    model = core.read_model(os.fspath(file))
    programs: dict[int, Any] = {}

    def run(images: np.ndarray) -> np.ndarray:
        if len(images) not in programs:
            fixed = model.clone()
            fixed.reshape(list(images.shape))
            programs[len(images)] = core.compile_model(fixed, "CPU", SETTINGS)
        return np.array(programs[len(images)](images)[0])

    return run
