"""Writes an artifact, runs it on photographs, and only then puts it in its place."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from crosscale.contracts import InputSpec
from crosscale.data import eval_transform, open_image
from crosscale.data.decode import decode
from crosscale.data.reading import read_picture
from crosscale.errors import RequestError, WorkError
from crosscale.export import onnx, stablehlo
from crosscale.export.program import Program, deviation
from crosscale.models.description import OpenSizes
from crosscale.models.model import ImageModel
from crosscale.models.registry import families_that
from crosscale.predictor import Predictor

Format = Literal["stablehlo", "onnx"]
FORMATS: tuple[Format, ...] = ("stablehlo", "onnx")

TOLERANCE = 1e-4  # of the largest magnitude, in float32
BATCHES = (1, 3)


@dataclass(frozen=True)
class Exported:
    """An artifact that was written and checked.

    Attributes:
      file: where it is.
      format: "stablehlo" or "onnx".
      size: of the file, in bytes.
      deviation: the largest difference from this package's own outputs, as a share of the largest output.
      pictures: how many were compared.
      config: the description that the artifact carries.
    """

    file: str
    format: str
    size: int
    deviation: float
    pictures: int
    config: dict[str, Any]


def export(
    predictor: Predictor,
    file: str | Path,
    *,
    format: Format,
    preprocessing: bool = True,
    any_size: bool = False,
    platforms: Sequence[str] = stablehlo.PLATFORMS,
    opset: int = onnx.OPSET,
    pictures: Sequence[str | Path] = (),
    tolerance: float = TOLERANCE,
    on_phase: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Exported:
    """Writes a model as a file of its own and compares its outputs with the model's on real pictures.

    The file appears at its place only after the comparison: one that is there is one that was checked.

    Args:
      file: the artifact; its folder must exist. A file that is there is replaced.
      format: "stablehlo" (a zip for `jax.export`, batch axis open) or "onnx" (batch axis open).
      preprocessing: True: uint8 pictures in, probabilities out. False: normalised float32 in, logits out.
      any_size: leaves height and width open as well (StableHLO; CrossFormer and others whose weights know no size).
      platforms: of the StableHLO program, out of "cpu", "cuda", "tpu".
      opset: ONNX operator set.
      pictures: image files to compare on; the package's own four photographs when empty.
      tolerance: largest deviation, as a share of the largest output, that passes.
      on_phase: told what is done next, how many phases are done, and of how many.

    Raises:
      RequestError: an unknown format, a folder that is missing, or axes that the model cannot leave open.
      WorkError: the outputs differ, a picture is bad, or the conversion failed.
    """
    target = _check(format, platforms, file)
    step, smallest = _open_sizes(predictor) if any_size else (1, 1)
    program = Program(predictor, preprocessing, any_size, step, smallest)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        on_phase(f"tracing the model and lowering it to {format}", 0, 3)
        if format == "onnx":
            config = onnx.write_onnx(program, draft, opset)
        else:
            config = stablehlo.write_stablehlo(program, draft, platforms)
        on_phase("loading the file that was written", 1, 3)
        run = onnx.open_onnx(draft) if format == "onnx" else stablehlo.open_stablehlo(draft)
        on_phase("comparing its outputs with the model's on photographs", 2, 3)
        found, count = _compare(program, run, [Path(path) for path in pictures])
        if not found <= tolerance:
            raise WorkError(
                f"{target.name}: the {format} outputs differ from the model's by {found:.2g} of the largest, "
                f"more than {tolerance:.2g}; nothing was written"
            )
        os.replace(draft, target)
    on_phase("done", 3, 3)
    return Exported(str(target), format, target.stat().st_size, found, count, config)


def _check(format: str, platforms: Sequence[str], file: str | Path) -> Path:
    """Where the artifact goes. Raises RequestError."""
    if format not in FORMATS:
        raise RequestError(f"format '{format}': one of {', '.join(FORMATS)}")
    if unknown := [name for name in platforms if name not in stablehlo.PLATFORMS] or not platforms:
        raise RequestError(f"platforms {unknown or 'of none'}: give some of {', '.join(stablehlo.PLATFORMS)}")
    target = Path(file).expanduser().resolve()
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else "its folder does not exist"
        raise RequestError(f"{target}: {what}; give the name of a file in a folder that exists")
    return target


def _open_sizes(predictor: Predictor) -> OpenSizes:
    """The sizes that the program serves where height and width are left open.

    Raises RequestError for a model whose program depends on the picture's size.
    """
    model, (height, width) = predictor.model, predictor.spec.size
    sizes = model.open_sizes() if isinstance(model, ImageModel) else None
    if sizes is None:
        raise RequestError(
            f"--any-size: {type(model).__name__} has one picture size, {height} x {width} pixels; "
            f"only {families_that('open_sizes')}'s can stay open"
        )
    return sizes


def _compare(program: Program, run: Callable[[np.ndarray], np.ndarray], paths: Sequence[Path]) -> tuple[float, int]:
    """The largest deviation over batches of several sizes, and the number of pictures compared."""
    worst, count = 0.0, 0
    for spec in _specs(program):
        pictures = _load(spec, paths)
        count = len(pictures)
        inputs = program.prepare(pictures)
        expected = np.asarray(jax.jit(program)(program.predictor.variables, inputs))
        for size in BATCHES:
            if size <= count:
                found = np.concatenate(
                    [run(inputs[start : start + size]) for start in range(0, count - size + 1, size)]
                )
                worst = max(worst, deviation(found, expected[: len(found)]))
    return worst, count


def _specs(program: Program) -> list[Any]:
    spec = program.predictor.spec
    if not program.any_size:
        return [spec]
    least, step = program.smallest, program.step
    return [replace(spec, size=size) for size in ((least, least), (least + step, least + 3 * step))]


def _photograph(path: Path, spec: InputSpec) -> bytes | np.ndarray:
    """One of the package's own pictures, its colours repeated for as many channels as the model takes."""
    data = open_image(path)
    if spec.pixels == "uint8":
        return data
    return np.take(np.asarray(decode(data, 3, path.name)), np.arange(spec.channels) % 3, axis=2)


def _load(spec: Any, paths: Sequence[Path]) -> np.ndarray:
    """(N, H, W, C), prepared as for prediction. Raises BadImage."""
    transform = eval_transform(spec)
    if paths:
        return np.stack([transform(read_picture(spec, open_image(path), str(path))) for path in paths])
    found = []
    for entry in sorted(files("crosscale.export").joinpath("pictures").iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".jpg"):
            with as_file(entry) as path:
                found.append(transform(read_picture(spec, _photograph(path, spec), entry.name)))
    return np.stack(found)
