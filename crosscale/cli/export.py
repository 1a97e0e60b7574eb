"""`crosscale export`: a trained model as a file that runs without this package."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from crosscale.cli.arguments import (
    Parser,
    add_model_options,
    check_model_options,
    fraction,
    open_predictor,
    positive_int,
    refuse_given,
)
from crosscale.cli.output import print_json, print_table, progress_bar
from crosscale.errors import RequestError

if TYPE_CHECKING:
    from crosscale.export.int8 import Int8
    from crosscale.predictor import Predictor

HELP = """\
Writes a trained model as one file that runs without crosscale.

stablehlo: a zip of the program, its weights, config.json and a README; runs under jax on CPU, CUDA and TPU.
onnx: one file whose metadata carries the class names and the input spec; runs under onnxruntime.
openvino: FILE.xml, and FILE.bin beside it; runs under OpenVINO.
litert: FILE.tflite, for one picture at a time; runs under LiteRT (TensorFlow Lite), as on phones.

The file takes uint8 pictures (batch, height, width, channels) of the model's size and gives probabilities;
the batch is open. What was written is loaded again and compared with the model on real photographs; if the
outputs differ by more than --tolerance, nothing is left behind.

--int8 (onnx, openvino) rounds the products with weights to 8 bits, calibrated on training pictures of the run and
judged on held-out ones: where the task's best measure, such as top-1, falls by more than --max-drop, nothing is
left behind. --compare writes nothing: it exports every format that is installed and prints size, deviation, accuracy
and images/s of each."""

EPILOG = """\
examples:
  crosscale export --run runs/digits --format stablehlo digits.zip
  crosscale export --run runs/digits --format onnx digits.onnx --images photo.jpg other.jpg
  crosscale export --run runs/digits --format onnx --int8 digits-int8.onnx
  crosscale export --run runs/digits --format litert digits.tflite
  crosscale export --run runs/digits --compare
  crosscale export --model crossformer_small_224 --weights model.safetensors --format stablehlo --any-size m.zip

JSON: {"file", "format", "size" (bytes), "deviation" (share of the largest output), "pictures", "config",
  "int8": null or {"measure", "before", "after", "drop", "examples", "calibrated_on"}}
  with --compare: {"measure", "examples", "batch_size", "formats": [{"name", "size", "deviation", "accuracy",
  "images_per_second", "reason"}, ...]}

exit status:
  0  written and checked
  1  the outputs differ, int8 loses too much, or the work failed
  2  the request was wrong (unknown option, missing file, an axis that the model cannot leave open)"""

FORMATS = ("stablehlo", "onnx", "openvino", "litert")  # as in `crosscale.export.formats`; importing it takes JAX
_PLATFORMS, _OPSET, _TOLERANCE = "cpu,cuda,tpu", 23, 1e-4
_WITH_OPSET = ("onnx", "openvino")
_BATCH_SIZE = 8  # of --compare
_HELD_OUT = 500  # examples that --compare takes by default


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Writes and checks the artifact, or compares the formats. Raises RequestError, WorkError."""
    options = _parser().parse(argv)
    _check(options)
    check_model_options(options)
    return _compare(options, as_json) if options.compare else _export(options, as_json)


def _check(options: argparse.Namespace) -> None:
    """Refuses what does not go together. Raises RequestError."""
    if options.compare:
        if options.out is not None or options.format is not None or options.int8 or options.raw or options.any_size:
            raise RequestError("--compare writes nothing: leave OUT, --format, --int8, --raw and --any-size out")
        refuse_given(
            options, ["platforms"], "goes with --format stablehlo; --compare measures on this machine's processor"
        )
        refuse_given(options, ["max_drop"], "goes with --int8; --compare prints every accuracy and refuses none")
        return
    if options.format is None or options.out is None:
        missing = "--format" if options.format is None else "OUT"
        raise RequestError(f"the following arguments are required: {missing}")
    refuse_given(options, ["batch_size"], "goes with --compare, whose images/s it is for")
    if options.format != "stablehlo":
        where = "; an ONNX file runs where onnxruntime does" if options.format == "onnx" else ""
        refuse_given(options, ["platforms"], f"goes with --format stablehlo{where}")
    if options.format not in _WITH_OPSET:
        refuse_given(
            options, ["opset"], f"goes with --format onnx and openvino; {options.format} has no ONNX operators"
        )
    if options.int8:
        refuse_given(options, ["tolerance"], "is for float32 programs; --max-drop judges int8 ones")
    judging = (options.data_dir, options.calibration, options.held_out, options.max_drop)
    if not options.int8 and any(value is not None for value in judging):
        raise RequestError("--data-dir, --calibration, --held-out and --max-drop go with --int8 and --compare")


def _export(options: argparse.Namespace, as_json: bool) -> int:
    wanted = _PLATFORMS if options.platforms is None else options.platforms
    platforms = tuple(name.strip() for name in wanted.split(",") if name.strip())
    from crosscale.export import export

    predictor = open_predictor(options)
    with progress_bar("exporting", verb="export") as report:
        result = export(
            predictor,
            options.out,
            format=options.format,
            preprocessing=not options.raw,
            any_size=options.any_size,
            platforms=platforms,
            opset=options.opset or _OPSET,
            int8=_int8(options, predictor, options.held_out) if options.int8 else None,
            pictures=options.images or (),
            tolerance=options.tolerance or _TOLERANCE,
            on_phase=lambda what, done, total: report(done, total, what),
        )
    if as_json:
        print_json(asdict(result))
        return 0
    shape = " x ".join(str(side) for side in result.config["input"]["shape"])
    print(f"{result.file}: {result.size / 1e6:,.1f} MB")
    print(f"in:  {result.config['input']['dtype']} {shape}, {result.config['input']['values']}")
    print(f"out: {result.config['output']['name']} of {len(result.config['classes'])} classes")
    print(f"checked on {result.pictures} pictures: largest deviation {result.deviation:.1e} of the largest output")
    if result.int8 is not None:
        measure = predictor.task.measures[result.int8["measure"]]
        before, after = (measure.shown(result.int8[key]) for key in ("before", "after"))
        print(
            f"int8, calibrated on {result.int8['calibrated_on']} pictures: {measure.label} {after} on "
            f"{result.int8['examples']:,} held-out ones, where float32 has {before}"
        )
    return 0


def _int8(options: argparse.Namespace, predictor: "Predictor", most: int | None) -> "Int8":
    """The user's pictures. Raises RequestError, WorkError."""
    from crosscale.export.held_out import CALIBRATION, Asked, open_int8

    asked = Asked(
        data_dir=options.data_dir,
        calibration=options.calibration or CALIBRATION,
        most=most,
        max_drop=1.0 if options.max_drop is None else options.max_drop,
    )
    return open_int8(predictor, options.run, asked)


def _compare(options: argparse.Namespace, as_json: bool) -> int:
    from crosscale.export.compare import compare

    predictor, batch_size = open_predictor(options), options.batch_size or _BATCH_SIZE
    int8 = _int8(options, predictor, options.held_out or _HELD_OUT)
    with progress_bar("comparing", verb="export") as report:
        rows = compare(
            predictor,
            int8,
            batch_size=batch_size,
            opset=options.opset or _OPSET,
            tolerance=options.tolerance or _TOLERANCE,
            pictures=options.images or (),
            on_phase=lambda what, done, total: report(done, total, what),
        )
    best = predictor.task.best
    measure, examples = predictor.task.measures[best], len(int8.source)
    if as_json:
        about = {"measure": best, "examples": examples, "batch_size": batch_size}
        print_json({**about, "formats": [asdict(row) for row in rows]})
        return 0
    columns = ["format", "MB", "deviation", measure.label, "images/s"]
    cells = [
        [
            row.name,
            f"{row.size / 1e6:,.1f}",
            f"{row.deviation:.0e}",
            measure.shown(row.accuracy),
            f"{row.images_per_second or 0:,.1f}",
        ]
        for row in rows
        if row.size is not None and row.deviation is not None
    ]
    title = f"{measure.label} on {examples:,} held-out images; images/s at best, in batches of {batch_size}"
    print_table(columns, cells, right=columns[1:], title=title)
    for row in rows:
        if row.reason is not None:
            print(f"{row.name} is missing: {row.reason}")
    return 0


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"expected points in 0..100, got '{text}'")
    return value


def _parser() -> Parser:
    parser = Parser("export", description=HELP, epilog=EPILOG)
    parser.add_argument("out", metavar="OUT", nargs="?", help="the file to write")
    add_model_options(parser, class_names=True)
    parser.add_argument("--format", choices=FORMATS, help="what to write")
    parser.add_argument("--compare", action="store_true", help="compare all formats that are installed; write nothing")
    parser.add_argument(
        "--raw", action="store_true", help="normalised float32 pictures in, logits out, instead of uint8 and softmax"
    )
    parser.add_argument(
        "--any-size", action="store_true", help="leave height and width open too (stablehlo, CrossFormer)"
    )
    parser.add_argument("--platforms", metavar="P,P", help=f"of a stablehlo program (default {_PLATFORMS})")
    parser.add_argument(
        "--opset", metavar="N", type=positive_int, help=f"ONNX operator set (onnx, openvino; default {_OPSET})"
    )
    parser.add_argument(
        "--images", metavar="IMAGE", nargs="+", help="image files to compare on (default: four photographs of ours)"
    )
    parser.add_argument(
        "--tolerance",
        metavar="T",
        type=fraction,
        help="largest deviation, as a share of the largest output (default 1e-4)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    data = parser.add_argument_group("int8, and the user's pictures")
    data.add_argument("--int8", action="store_true", help="round the products with weights to 8 bits (onnx, openvino)")
    data.add_argument(
        "--max-drop",
        metavar="P",
        type=_points,
        help="points of the task's best measure that int8 may lose; percent where it is no share (default 1)",
    )
    data.add_argument(
        "--calibration", metavar="N", type=positive_int, help="training pictures to calibrate on (default 128)"
    )
    data.add_argument(
        "--held-out",
        metavar="N",
        type=positive_int,
        help=f"held-out images to judge by, evenly spaced (default all; --compare: {_HELD_OUT})",
    )
    data.add_argument("--data-dir", metavar="D", help="labelled images of the model's classes (default: the run's)")
    data.add_argument(
        "--batch-size", metavar="B", type=positive_int, help=f"of --compare's images/s (default {_BATCH_SIZE})"
    )
    return parser
