"""`crosscale convert`: weights under another project's names, or a folder ready for the hub."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import Parser, add_weights_key, positive_int, read_classes
from crosscale.cli.output import note, print_json
from crosscale.errors import RequestError

if TYPE_CHECKING:
    from crosscale.artifact import Artifact
    from crosscale.contracts import InputSpec

HELP = """\
Reads weights from any file that the model fits and writes them under other names, bit for bit.

IN is a .safetensors file, a PyTorch .pth (needs the torch extra; nothing in it is run), a MindSpore .ckpt, a run
folder or its best/. The command recognises and reports the file's naming scheme, and takes the number of
classes from the file.
OUT is a .safetensors file, or with the suffix .pth a PyTorch state dict. With --folder it is a folder with
model.safetensors, config.json and README.md, which can be uploaded to the Hugging Face hub as it is. crosscale reads
it with --run, and timm, where it has the model, as "local-dir:FOLDER"."""

EPILOG = """\
examples:
  crosscale convert --model crossvit_15_240 crossvit_15_224.pth model.safetensors --names timm
  crosscale convert --model crossvit_9_240 --pretrained published.safetensors --names ibm
  crosscale convert runs/photos photos.safetensors --names timm
  crosscale convert runs/photos photos-crossvit --folder --license cc-by-4.0

JSON: {"model", "input", "output", "names_in", "names", "tensors", "num_classes"}

exit status:
  0  done
  1  the work failed (a download, a full disc)
  2  the request was wrong (unknown option, a file that is damaged or of another model)"""

_FIELD = "--model.options."


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Writes the file or folder. Raises RequestError, WorkError."""
    options = _parser(argv).parse(argv)
    source, target = _files(options)
    fields = {name: value for name, value in vars(options).items() if name.startswith(_FIELD[2:])}
    if Path(target).exists() and not options.folder and not options.overwrite:
        raise RequestError(f"{target}: exists already; give another OUT, or --overwrite")
    if not options.folder and (options.license or options.classes):
        raise RequestError("--license and --classes are recorded in a folder; give --folder too")
    if options.folder and options.overwrite:
        raise RequestError(
            "--overwrite replaces a file; --folder writes an earlier version of its folder anew by itself"
        )
    if options.pretrained and (options.from_names or options.weights_key):
        raise RequestError("--from-names and --weights-key say how to read IN, which --pretrained replaces")
    result = _convert(options, source, target, fields)
    if as_json:
        print_json(result)
    else:
        print(result["output"])
        note(
            f"{result['model']}: {result['tensors']} tensors of {result['input']}, "
            f"from the names of '{result['names_in']}' to those of '{result['names']}'"
        )
    return 0


def _parser(argv: Sequence[str]) -> Parser:
    parser = Parser("convert", description=HELP, epilog=EPILOG)
    parser.usage = "%(prog)s [--model M] IN OUT [--names S] [--folder]"
    parser.add_argument("files", metavar="FILE", nargs="*", help="IN and OUT; with --pretrained only OUT")
    parser.add_argument("--model", metavar="M", help="a preset or family; a run folder names its own")
    parser.add_argument("--pretrained", action="store_true", help="the preset's published weights instead of IN")
    parser.add_argument(
        "--names",
        metavar="S",
        help="scheme to write, of those that the model has: timm, ibm, mindcv, official, mmseg, mmdet, "
        "crosscale (default)",
    )
    parser.add_argument("--from-names", metavar="S", help="scheme of IN; default: recognised")
    add_weights_key(parser)
    parser.add_argument("--num-classes", metavar="N", type=positive_int, help="default: the file's")
    parser.add_argument("--folder", action="store_true", help="OUT is a folder for the hub")
    parser.add_argument("--license", metavar="L", default="", help="of the weights, as the hub spells it (--folder)")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line in label order (--folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace an OUT that exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for word in argv:  # only the model knows its fields
        name = word.split("=", 1)[0]
        if name.startswith(_FIELD) and name not in parser.known_options():
            dest = name[2:].replace("-", "_")
            parser.add_argument(name, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _files(options: argparse.Namespace) -> tuple[str, str]:
    wanted = 1 if options.pretrained else 2
    if len(options.files) != wanted:
        raise RequestError(
            f"expected {'OUT alone' if options.pretrained else 'IN and OUT'}, got {len(options.files)} file names"
        )
    if options.pretrained and options.model is None:
        raise RequestError("--pretrained needs --model M, the preset whose weights to take")
    return ("" if options.pretrained else options.files[0]), options.files[-1]


def _named(
    options: argparse.Namespace, source: str, fields: dict[str, Any]
) -> "tuple[Artifact | None, str, dict[str, Any]]":
    """What a folder says of its weights, the model's name, and its fields. Raises RequestError."""
    from crosscale.pretrained.loading import locate
    from crosscale.typed import parse_scalar

    artifact = locate(source)[1] if source else None
    name = options.model or (artifact.model if artifact else None)
    if name is None:
        what = "this folder" if Path(source).expanduser().is_dir() else "a file"
        raise RequestError(f"{source}: {what} does not say its model; give --model M (`crosscale models` lists them)")
    kwargs: dict[str, Any] = {} if options.model or artifact is None else dict(artifact.options)
    if f"{_FIELD[2:]}num_classes" in fields:
        raise RequestError(f"{_FIELD}num_classes: the number of classes is no option here; give --num-classes N")
    kwargs |= {key[len(_FIELD) - 2 :]: parse_scalar(Any, text) for key, text in fields.items()}
    return artifact, name, kwargs


def _convert(options: argparse.Namespace, source: str, target: str, fields: dict[str, Any]) -> dict[str, Any]:
    from crosscale.models.registry import create_model, input_spec
    from crosscale.models.shapes import variable_shapes
    from crosscale.pretrained import OWN, fetch_weights, inspect_weights, load_weights, save_pretrained, save_weights
    from crosscale.pretrained.publishing import check_not_best, scheme_of_folder
    from crosscale.pretrained.restore import restore_task
    from crosscale.runs.experiment import constructing

    check_not_best(Path(target).expanduser() if options.folder else Path(target).expanduser().parent)
    artifact, name, kwargs = _named(options, source, fields)
    path: str | Path = fetch_weights(name) if options.pretrained else source
    with constructing(name, kwargs):
        model = create_model(name, **kwargs)
        spec = input_spec(name, model)
        variable_shapes(model, spec.size, spec.channels)
    contents = inspect_weights(path, model, options.from_names, key=options.weights_key)
    num_classes = options.num_classes or contents.num_classes
    model = create_model(name, **kwargs, **({} if num_classes is None else {"num_classes": num_classes}))
    variables = load_weights(path, model, contents.names, key=options.weights_key)
    names = options.names
    if options.folder:
        spec, task = input_spec(name, model), restore_task(artifact, source) if artifact else None
        # Fields that are given beside a folder may build a model of another input.
        if artifact and (not options.model or _shape(artifact.input_spec) == _shape(spec)):
            spec = artifact.input_spec
        names = names or scheme_of_folder(model, task)
        metrics = artifact.metrics if artifact else {}
        save_pretrained(
            target,
            variables,
            model,
            name=name,
            spec=spec,
            options=kwargs,
            classes=read_classes(options) or (artifact.labels if artifact else None),
            licence=options.license,
            metrics={key: value for key, value in metrics.items() if key in ("top1", "top5", "loss")},
            names=names,
            task=task,
        )
    else:
        names = names or OWN
        save_weights(target, variables, model, names)
    return {
        "model": name,
        "input": str(path),
        "output": target,
        "names_in": contents.names,
        "names": names,
        "tensors": contents.tensors,
        "num_classes": num_classes,
    }


def _shape(spec: "InputSpec") -> tuple[tuple[int, int], int]:
    return spec.size, spec.channels
