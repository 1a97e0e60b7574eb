"""Runs as a program of its own, without JAX: one measurement of an ONNX file under onnxruntime or OpenVINO.

    python engine_peer.py '{"engine": "openvino", "file": "m.onnx", "batch_size": 8, "size": [240, 240], ...}'

Answers with one JSON line, as `torch_models.py` does.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()

import numpy as np  # noqa: E402


def _stopwatch() -> Any:
    """The module beside this file, without the package, whose import takes memory that would be counted."""
    spec = importlib.util.spec_from_file_location("stopwatch", Path(__file__).with_name("stopwatch.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The files beside this one must not be taken for top-level modules of the same names.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent.resolve()]
stopwatch = _stopwatch()


def open_program(request: dict[str, Any], images: np.ndarray) -> tuple[Any, str]:
    """What runs the batch, and the engine's version."""
    if request["engine"] == "openvino":
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # see crosscale/export/openvino.py
        import openvino

        core = openvino.Core()
        model = core.read_model(request["file"])
        model.reshape(list(images.shape))
        program = core.compile_model(model, "CPU", request["engine_settings"])
        return lambda: program(images), openvino.__version__
    import onnxruntime

    session = onnxruntime.InferenceSession(request["file"], providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images}), onnxruntime.__version__


def measure(request: dict[str, Any]) -> dict[str, Any]:
    shape = (request["batch_size"], *request["size"], request["channels"])
    images = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    imported = time.perf_counter() - BEGAN
    held: list[Any] = []

    def step() -> None:
        if not held:
            held.extend(open_program(request, images))
        held[0]()

    first = stopwatch.first_call(step)
    result = stopwatch.timed(step, request["seconds"])
    return {
        **result,
        "first_call": first,
        "start": imported,
        "peak_bytes": stopwatch.host_peak_bytes(),
        "device": "cpu",
        "settings": request["engine_settings"],
        "matmul_flops": None,  # no product of its own to compare with
        "versions": {request["engine"]: held[1]},
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))), flush=True)
