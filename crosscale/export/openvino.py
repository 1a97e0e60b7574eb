"""OpenVINO, which reads ONNX files and runs them on a processor."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# On a processor with bfloat16 units OpenVINO would round to it unasked.
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


def open_openvino(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file, or OpenVINO's own, as a function of a batch, in float32 on the CPU.

    Every batch size is compiled when it first comes: OpenVINO's programs of an open batch are slower.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(os.fspath(file))
    programs: dict[int, Any] = {}

    def run(images: np.ndarray) -> np.ndarray:
        if len(images) not in programs:
            fixed = model.clone()
            fixed.reshape(list(images.shape))
            programs[len(images)] = core.compile_model(fixed, "CPU", SETTINGS)
        return np.array(programs[len(images)](images)[0])

    return run
