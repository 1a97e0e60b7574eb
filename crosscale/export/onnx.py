"""ONNX through jax2onnx, run by onnxruntime; the description travels in the file's metadata properties."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from crosscale.contracts import Array, Variables
from crosscale.errors import RequestError, WorkError
from crosscale.export.program import Program
from crosscale.layers.kernels import use_kernels
from crosscale.models.region_detection import RegionDetector

OPSET = 23


def write_onnx(program: Program, file: Path, opset: int = OPSET) -> dict[str, Any]:
    """Writes the file, with an open batch axis and the picture's size fixed, and returns its description.

    Raises:
      RequestError: jax2onnx is not installed, the picture's size should stay open, or the operator set does not suit.
      WorkError: the model holds an operation that jax2onnx does not know.
    """
    if program.any_size:
        raise RequestError("--any-size: an ONNX file has one picture size; use --format stablehlo, or leave it out")
    _need("jax2onnx", "onnxruntime")
    with _quiet():
        from jax2onnx import to_onnx

        spec = program.predictor.spec
        image = jax.ShapeDtypeStruct(("batch", *spec.size, spec.channels), program.input_dtype)
        # As host arrays the weights become the graph's initialisers as they are.
        variables = jax.tree.map(np.asarray, program.predictor.variables)
        run = _one_by_one(program) if isinstance(program.predictor.model, RegionDetector) else program
        try:
            with use_kernels(rows="loop"):  # the converter's rules for vmap ask for a name that JAX no longer has
                model: Any = to_onnx(
                    lambda images: run(variables, images),
                    [image],
                    opset=opset,
                    model_name="crosscale",
                    input_names=["images"],
                    output_names=[program.output_name],
                )
        except Exception as error:  # the converter has no error type of its own
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            if opset != OPSET:
                raise _wrong_opset(opset, reason) from None
            other = "; --format stablehlo exports it" if program.predictor.task.exports_inferred else ""
            raise WorkError(
                f"jax2onnx cannot convert {type(program.predictor.model).__name__}: {reason}{other}"
            ) from None
    # jax2onnx notes some intermediate shapes wrongly; onnxruntime infers them itself.
    del model.graph.value_info[:]
    _refuse_empty(model.graph)
    config = program.describe(format="onnx", opset=opset)
    add_description(model, config)
    file.write_bytes(model.SerializeToString())
    if opset != OPSET:
        try:
            open_onnx(file)
        except Exception as error:  # onnxruntime's errors are of many types, below Exception alone
            raise _wrong_opset(opset, " ".join(str(error).split("\n", 1)[0].split())[-120:]) from None
    return config


def add_description(model: Any, config: Mapping[str, Any]) -> None:
    """Writes the description into an ONNX model's metadata properties."""
    for key, value in config.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, as_text(value)


def as_text(value: Any) -> str:
    """A value of a description where only text may stand: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _one_by_one(program: Program) -> Callable[[Variables, Array], Array]:
    """The program as a loop over the pictures.

    A detector of two stages puts the regions of all pictures on one axis, whose open length jax2onnx gets wrong.
    """
    return lambda variables, images: lax.map(lambda image: program(variables, image[None])[0], images)


def _refuse_empty(graph: Any) -> None:
    """Makes the runtime refuse a batch of no pictures: onnxruntime's Reshape divides by that 0, which ends the process.

    Element 0 of a list of one is read where there are pictures, and element 1, which is an error, where there are none.
    The pictures wait for that element as the start of a slice that keeps all of them.
    """
    from onnx import helper, numpy_helper

    name = graph.input[0].name
    own = f"{name}_there"
    for node in graph.node:
        node.input[:] = [own if used == name else used for used in node.input]
    for value in (0, 1, np.iinfo(np.int64).max):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"{own}/{value}"))
    zero, one, last = (tensor.name for tensor in graph.initializer[-3:])

    def step(operation: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(operation, inputs, [output], name=output, **attributes)

    first = [
        step("Shape", [name], f"{own}/count", start=0, end=1),
        step("Min", [f"{own}/count", one], f"{own}/any"),
        step("Sub", [one, f"{own}/any"], f"{own}/none"),
        step("Gather", [zero, f"{own}/none"], f"{own}/start"),
        step("Slice", [name, f"{own}/start", last, zero], own),
    ]
    for node in reversed(first):
        graph.node.insert(0, node)


def _wrong_opset(opset: int, reason: str) -> RequestError:
    return RequestError(
        f"--opset {opset}: the model cannot be written with this operator set (... {reason}); {OPSET} is the one that "
        "every model was tried with"
    )


def open_onnx(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The written file as a function of a batch, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise RequestError(f"--format onnx needs {package}; pip install 'crosscale[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back the converter's warnings about plugins for other libraries, which are not the user's concern."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
