"""`crosscale export`: a trained model as a file that runs without this package."""

from collections.abc import Sequence
from dataclasses import asdict

from crosscale.cli.arguments import (
    Parser,
    add_model_options,
    check_model_options,
    fraction,
    open_predictor,
    positive_int,
)
from crosscale.cli.output import print_json, progress_bar
from crosscale.errors import RequestError

HELP = """\
Writes a trained model as one file that runs without crosscale.

stablehlo: a zip of the program, its weights, config.json and a README; runs under jax on CPU, CUDA and TPU.
onnx: one file whose metadata carries the class names and the input spec; runs under onnxruntime.

The file takes uint8 pictures (batch, height, width, channels) of the model's size and gives probabilities;
the batch is open. What was written is loaded again and compared with the model on real photographs; if the
outputs differ by more than --tolerance, nothing is left behind."""

EPILOG = """\
examples:
  crosscale export --run runs/digits --format stablehlo digits.zip
  crosscale export --run runs/digits --format onnx digits.onnx --images photo.jpg other.jpg
  crosscale export --model crossformer_small_224 --weights model.safetensors --format stablehlo --any-size m.zip

JSON: {"file", "format", "size" (bytes), "deviation" (share of the largest output), "pictures", "config"}

exit status:
  0  written and checked
  1  the outputs differ, or the work failed
  2  the request was wrong (unknown option, missing file, an axis that the model cannot leave open)"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Writes and checks the artifact. Raises RequestError, WorkError."""
    options = _parser().parse(argv)
    check_model_options(options)
    platforms = tuple(name.strip() for name in options.platforms.split(",") if name.strip())
    if options.format == "onnx" and options.platforms != _PLATFORMS:
        raise RequestError("--platforms goes with --format stablehlo; an ONNX file runs where onnxruntime does")

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
            opset=options.opset,
            pictures=options.images or (),
            tolerance=options.tolerance,
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
    return 0


_PLATFORMS = "cpu,cuda,tpu"


def _parser() -> Parser:
    parser = Parser("export", description=HELP, epilog=EPILOG)
    parser.add_argument("out", metavar="OUT", help="the file to write")
    add_model_options(parser, class_names=True)
    parser.add_argument("--format", choices=("stablehlo", "onnx"), required=True, help="what to write")
    parser.add_argument(
        "--raw", action="store_true", help="normalised float32 pictures in, logits out, instead of uint8 and softmax"
    )
    parser.add_argument(
        "--any-size", action="store_true", help="leave height and width open too (stablehlo, CrossFormer)"
    )
    parser.add_argument(
        "--platforms", metavar="P,P", default=_PLATFORMS, help=f"of a stablehlo program (default {_PLATFORMS})"
    )
    parser.add_argument("--opset", metavar="N", type=positive_int, default=23, help="ONNX operator set (default 23)")
    parser.add_argument(
        "--images", metavar="IMAGE", nargs="+", help="image files to compare on (default: four photographs of ours)"
    )
    parser.add_argument(
        "--tolerance",
        metavar="T",
        type=fraction,
        default=1e-4,
        help="largest deviation, as a share of the largest output (default 1e-4)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
