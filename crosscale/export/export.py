"""Writes an artifact, runs it on photographs, and only then puts it in its place."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crosscale.errors import RequestError, WorkError
from crosscale.export import onnx, stablehlo
from crosscale.export.formats import FORMATS, Choices, FormatName, Run, check_format
from crosscale.export.int8 import Int8, judge, quantise_onnx
from crosscale.export.openvino import onnx_to_openvino
from crosscale.export.photographs import load_pictures
from crosscale.export.program import Program, deviation
from crosscale.models.description import OpenSizes
from crosscale.models.model import ImageModel
from crosscale.models.registry import families_that
from crosscale.predictor import Predictor

INT8_FORMATS: tuple[FormatName, ...] = ("onnx", "openvino")

TOLERANCE = 1e-4  # of the largest magnitude, in float32
BATCHES = (1, 3)


@dataclass(frozen=True)
class Exported:
    """An artifact that was written and checked.

    Attributes:
      file: where it is; of "openvino" the file with the program, beside which another holds the weights.
      format: "stablehlo", "onnx", "openvino" or "litert".
      size: of all its files, in bytes.
      deviation: the largest difference from this package's own outputs, as a share of the largest output.
      pictures: how many were compared.
      config: the description that the artifact carries.
      int8: what an int8 program's rounding costs, by the keys of `crosscale.export.int8.Judged`; else None.
    """

    file: str
    format: str
    size: int
    deviation: float
    pictures: int
    config: dict[str, Any]
    int8: dict[str, Any] | None = None


def export(
    predictor: Predictor,
    file: str | Path,
    *,
    format: FormatName,
    preprocessing: bool = True,
    any_size: bool = False,
    platforms: Sequence[str] = stablehlo.PLATFORMS,
    opset: int = onnx.OPSET,
    int8: Int8 | None = None,
    pictures: Sequence[str | Path] = (),
    tolerance: float = TOLERANCE,
    on_phase: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Exported:
    """Writes a model as a file of its own and compares its outputs with the model's on real pictures.

    The file appears at its place only after the comparison: one that is there is one that was checked.

    Args:
      file: the artifact; its folder must exist. A file that is there is replaced.
      format: "stablehlo" (a zip for `jax.export`), "onnx", "openvino" (FILE.xml, and FILE.bin beside it), all three
        with the batch axis open, or "litert" (FILE.tflite, one picture at a time).
      preprocessing: True: uint8 pictures in, probabilities out. False: normalised float32 in, logits out.
      any_size: leaves height and width open as well (StableHLO; CrossFormer and others whose weights know no size).
      platforms: of the StableHLO program, out of "cpu", "cuda", "tpu".
      opset: ONNX operator set.
      int8: rounds the products with weights to int8 ("onnx" and "openvino"); None leaves float32.
      pictures: image files to compare on; the package's own four photographs when empty.
      tolerance: largest deviation, as a share of the largest output, that passes; int8 has none.
      on_phase: told what is done next, how many phases are done, and of how many.

    Raises:
      RequestError: an unknown format, a folder or package that is missing, or axes that the model cannot leave open.
      WorkError: the outputs differ, int8 loses more than it may, a picture is bad, or the conversion failed.
    """
    target = _check(format, platforms, file, int8)
    step, smallest = _open_sizes(predictor) if any_size else (1, 1)
    program = Program(predictor, preprocessing, any_size, step, smallest)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        on_phase(f"tracing the model and lowering it to {format}", 0, 3)
        if int8 is None:
            config, before = FORMATS[format].write(program, draft, Choices(platforms, opset)), None
        else:
            config, before = _write_int8(program, draft, format, opset, int8)
        on_phase("loading the file that was written", 1, 3)
        run = FORMATS[format].open(draft)
        on_phase("comparing its outputs with the model's on photographs", 2, 3)
        found, count = _compare(program, run, [Path(path) for path in pictures])
        judged = None if int8 is None or before is None else asdict(judge(program, before, run, int8))
        if judged is None and not found <= tolerance:
            raise WorkError(
                f"{target.name}: the {format} outputs differ from the model's by {found:.2g} of the largest, "
                f"more than {tolerance:.2g}; nothing was written"
            )
        size = _put(draft, target)
    on_phase("done", 3, 3)
    return Exported(str(target), format, size, found, count, config, judged)


def _put(draft: Path, target: Path) -> int:
    """Moves the draft and the files beside it to the target's folder; returns how many bytes they have."""
    # The one that is asked for comes last: once it is there, all are.
    parts = sorted(draft.parent.iterdir(), key=lambda part: part == draft)
    size = sum(part.stat().st_size for part in parts)
    for part in parts:
        os.replace(part, target.parent / part.name)
    return size


def _write_int8(
    program: Program, draft: Path, format: FormatName, opset: int, int8: Int8
) -> tuple[dict[str, Any], Run]:
    """Writes the rounded program; its description, and the program in float32, which leaves no file."""
    with tempfile.TemporaryDirectory(prefix="crosscale-int8-") as folder:
        plain, rounded = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        config = {**onnx.write_onnx(program, plain, opset), "format": format, "products": "int8"}
        before = onnx.open_onnx(plain)
        if format == "onnx":
            quantise_onnx(plain, draft, program, int8.pictures, config)
        else:
            quantise_onnx(plain, rounded, program, int8.pictures, config)
            onnx_to_openvino(rounded, draft, config)
    return config, before


def _check(format: str, platforms: Sequence[str], file: str | Path, int8: Int8 | None) -> Path:
    """Where the artifact goes. Raises RequestError."""
    suffix = check_format(format).suffix
    unknown = [name for name in platforms if name not in stablehlo.PLATFORMS]
    if unknown or not platforms:
        what = f"--platforms {', '.join(unknown)}" if unknown else "--platforms names none"
        raise RequestError(f"{what}: give some of {', '.join(stablehlo.PLATFORMS)}")
    if int8 is not None and format not in INT8_FORMATS:
        raise RequestError(f"--int8 goes with --format {' and --format '.join(INT8_FORMATS)}, not {format}")
    target = Path(file).expanduser().resolve()
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else "its folder does not exist"
        raise RequestError(f"{target}: {what}; give the name of a file in a folder that exists")
    if target.suffix != suffix and suffix:
        raise RequestError(f"{target.name}: a file of --format {format} ends in {suffix}")
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


def _compare(program: Program, run: Run, paths: Sequence[Path]) -> tuple[float, int]:
    """The largest deviation over batches of several sizes, and the number of pictures compared."""
    worst, count = 0.0, 0
    for spec in _specs(program):
        pictures = load_pictures(spec, paths)
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
