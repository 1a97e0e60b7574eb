"""The formats of exported programs: how each is written, opened and called."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from crosscale.errors import RequestError
from crosscale.export import litert, onnx, openvino, stablehlo
from crosscale.export.program import Program

Run = Callable[[np.ndarray], np.ndarray]
FormatName = Literal["stablehlo", "onnx", "openvino", "litert"]


@dataclass(frozen=True)
class Choices:
    """What only some formats can be told.

    Attributes:
      platforms: of a StableHLO program, out of "cpu", "cuda", "tpu".
      opset: ONNX operator set.
    """

    platforms: Sequence[str] = stablehlo.PLATFORMS
    opset: int = onnx.OPSET


class Format(NamedTuple):
    """One row of the table.

    Attributes:
      write: writes the program, and returns its description.
      open: the written file as a function of a batch.
      needs: the modules to write and open it.
      extra: that installs them.
      suffix: that the file's name must have; "" for any.
    """

    write: Callable[[Program, Path, Choices], dict[str, Any]]
    open: Callable[[Path], Run]
    needs: tuple[str, ...]
    extra: str
    suffix: str = ""

    def missing(self) -> str | None:
        """A module that is not installed; None where all are."""
        return next((name for name in self.needs if find_spec(name) is None), None)


FORMATS: Mapping[FormatName, Format] = {
    "stablehlo": Format(
        lambda program, file, choices: stablehlo.write_stablehlo(program, file, choices.platforms),
        stablehlo.open_stablehlo,
        ("flatbuffers",),
        "stablehlo",
    ),
    "onnx": Format(
        lambda program, file, choices: onnx.write_onnx(program, file, choices.opset),
        onnx.open_onnx,
        ("jax2onnx", "onnxruntime"),
        "onnx",
    ),
    "openvino": Format(
        lambda program, file, choices: openvino.write_openvino(program, file, choices.opset),
        openvino.open_openvino,
        ("jax2onnx", "openvino"),
        "openvino",
        ".xml",
    ),
    "litert": Format(
        lambda program, file, choices: litert.write_litert(program, file),
        litert.open_litert,
        ("litert_converter", "ai_edge_litert"),
        "litert",
        ".tflite",
    ),
}


def check_format(name: str) -> Format:
    """The row of a format. Raises RequestError for one that is unknown or not installed."""
    if name not in FORMATS:
        raise RequestError(f"format '{name}': one of {', '.join(FORMATS)}")
    found: Format = FORMATS[name]  # type: ignore[index]  # just looked up
    if (module := found.missing()) is not None:
        raise RequestError(f"--format {name} needs {module.replace('_', '-')}; pip install 'crosscale[{found.extra}]'")
    return found
