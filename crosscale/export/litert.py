"""LiteRT (TensorFlow Lite's files) from StableHLO, by the converter inside Google's litert-torch; no TensorFlow.

The converter's own Python functions are what litert-torch calls; they are not documented for others, so the extra
`litert` pins its minor version, and every file is run and compared before it is kept.
"""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crosscale.errors import RequestError, WorkError
from crosscale.export.program import Program
from crosscale.layers.kernels import use_kernels


def write_litert(program: Program, file: Path) -> dict[str, Any]:
    """Writes the file, for one picture of a fixed size at a time, and returns its description.

    The description is `config.json` in a zip behind the model, as TensorFlow Lite's metadata keeps its files; a runtime
    passes over it.

    Raises:
      RequestError: the picture's size should stay open.
      WorkError: the model holds an operation that the converter does not know.
    """
    if program.any_size:
        raise RequestError("--any-size: a LiteRT file has one picture size; use --format stablehlo, or leave it out")
    spec = program.predictor.spec
    image = jax.ShapeDtypeStruct((1, *spec.size, spec.channels), program.input_dtype)
    # As host arrays the weights become constants of the program.
    variables = jax.tree.map(np.asarray, program.predictor.variables)
    with use_kernels(platforms=("cpu",), vendor="none", attention="plain", convolution="convolution"):
        exported = jax.export.export(jax.jit(lambda images: program(variables, images)), platforms=("cpu",))(image)
    try:
        content = _converted(str(exported.mlir_module()), program.output_name)
    except Exception as error:  # the converter's errors have no type of their own
        reason = " ".join(str(error).split())[:200]
        model = type(program.predictor.model).__name__
        raise WorkError(f"litert-converter cannot convert {model}: {reason}; --format onnx may do") from None
    config = program.describe(format="litert")
    config["input"]["shape"][0] = config["output"]["shape"][0] = 1
    file.write_bytes(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as behind:
        behind.writestr("config.json", json.dumps(config, indent=2, ensure_ascii=False))
    return config


def _converted(module: str, output: str) -> bytes:
    """The text of a StableHLO module as a flatbuffer."""
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        parsed = ir.Module.parse(module)
        converter.set_signature(
            parsed.operation, signature_name="serving_default", input_names=["images"], output_names=[output]
        )
        converter.run_convert_to_tfl_passes(parsed, passmanager.PassManager(), converter.ConvertToTFLConfig())
        content: bytes = converter.export_flatbuffer_to_bytes(parsed.operation)
    return content


def open_litert(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The written file as a function of a batch, whose pictures it takes one after another."""
    from ai_edge_litert.interpreter import Interpreter

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    interpreter = Interpreter(model_path=os.fspath(file), num_threads=cores)
    runner = interpreter.get_signature_runner()
    (output,) = runner.get_output_details()

    def run(images: np.ndarray) -> np.ndarray:
        # The interpreter's outputs are its own memory, which the next picture overwrites.
        return np.concatenate([np.array(runner(images=picture[None])[output]) for picture in images])

    return run
