"""`crosscale explain`: what a model looks at in image files, drawn over them at every scale."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import (
    Parser,
    add_model_options,
    add_result_options,
    check_model_options,
    open_predictor,
    positive_int,
    refuse_given,
    result_options,
)
from crosscale.cli.output import check_outside, free_name, note, print_json, print_table, progress_bar, short_stem
from crosscale.cli.predict import Found, find_images
from crosscale.errors import RequestError, WorkError

if TYPE_CHECKING:
    import numpy as np

    from crosscale.predictor import Predictor

    _Read = tuple["np.ndarray", tuple[int, int]]
    from crosscale.tasks.task import Task

HELP = """\
Draws a model's attention over image files: one PNG per image, its scales side by side, with the prediction.

For each branch of a CrossViT (small and large patches) it draws what the branch's CLS token attends to, what the
other branch's CLS token attends to in it, and with --all-maps both rolled out over all layers. For each stage of a
CrossFormer it draws the short- and long-distance groups, either for one place of the picture (--position), or as the
attention that every cell receives on average.

IMAGE is a file or a folder, which is searched for images at any depth, or - for a picture on standard input. The
pictures are prepared exactly as in validation, and drawn as the model sees them. A file that cannot be used is
reported and the rest go on."""

EPILOG = """\
examples:
  crosscale explain --run runs/digits three.png --output attention
  crosscale explain --run runs/birds folder/ --output attention --position 0.4,0.6
  crosscale explain --model crossvit_9_240 --weights model.safetensors photo.jpg --output attention --json

JSON: {"explanations": [{"source", "output", "classes", "probabilities", "maps", "error"}, ...], "failed"};
"maps" gives each map's largest weight as a multiple of its average.

exit status:
  0  every image was drawn
  1  some file could not be used (the others are drawn), or the work failed
  2  the request was wrong (unknown option, no such file, weights that do not fit)"""

_DEFAULTS = {"top_k": 3}  # a figure has room for few lines


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Writes the pictures; returns 1 if a file could not be used. Raises RequestError, WorkError."""
    options = _parser().parse(argv)
    check_model_options(options)
    if options.position is None:
        refuse_given(options, ["direction"], "goes with --position Y,X, the place whose attention it is")
    files = find_images(options.images, "explain")
    check_outside("--output", Path(options.output), options.images, "the drawings")
    folder = _output_folder(options.output)

    predictor = open_predictor(options)
    from crosscale.explain import describe_maps

    maps = describe_maps(predictor.model, predictor.spec.size)
    if not any(one.folded for one in maps):
        refuse_given(options, ["all_maps"], "is for CrossViT; all maps of this model are drawn without it")
    # A batch is filled up to its size, so a batch larger than the work would only compute padding.
    options.batch_size = min(options.batch_size, len(files))
    said = result_options(options, predictor.task, _DEFAULTS)
    done: list[dict[str, Any]] = []
    with progress_bar("explaining") as report:
        for item in _explain_files(predictor, files, folder, options, said):
            done.append(item)
            report(len(done), len(files))
            if item["json"]["error"] is not None:
                note(f"crosscale explain: {item['json']['source']}: {item['json']['error']}")
    failed = sum(item["json"]["error"] is not None for item in done)
    if as_json:
        print_json({"explanations": [item["json"] for item in done], "failed": failed})
    else:
        _print(done, predictor.task)
    if failed:
        note(f"crosscale explain: {failed} of {len(files)} files could not be used")
    return 1 if failed else 0


def _parser() -> Parser:
    parser = Parser("explain", description=HELP, epilog=EPILOG)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    add_model_options(parser, class_names=True)
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="the folder for the PNG files; made if it is not there"
    )
    parser.add_argument(
        "--position",
        metavar="Y,X",
        type=_position,
        help="CrossFormer: the place in question, as fractions of height and width (0.5,0.5 is the centre)",
    )
    parser.add_argument(
        "--direction",
        choices=("received", "given"),
        help="with --position: attention that the place receives (default), or that it gives",
    )
    parser.add_argument(
        "--all-maps", action="store_true", help="CrossViT: draw the attention of all layers together, too"
    )
    add_result_options(parser, _DEFAULTS)
    parser.add_argument(
        "--batch-size", metavar="B", type=positive_int, default=8, help="images per forward (default 8)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _position(text: str) -> tuple[float, float]:
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        y = x = -1.0
    if not (0 <= y <= 1 and 0 <= x <= 1):
        raise argparse.ArgumentTypeError(f"expected Y,X as fractions in 0..1, such as 0.5,0.5, got '{text}'")
    return y, x


def _output_folder(text: str) -> Path:
    folder = Path(text).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"--output {folder}: is a file, or lies below one; give a folder") from None
    except PermissionError:
        raise RequestError(f"--output {folder}: no permission to make it; give another folder") from None
    return folder


def _explain_files(
    predictor: "Predictor",
    files: Sequence[Found],
    folder: Path,
    options: argparse.Namespace,
    said: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """Each file's result as "json" and "rows", in order, after its PNG is written."""
    taken: dict[str, int] = {}
    remaining = iter(files)
    while chunk := list(islice(remaining, options.batch_size)):
        loaded = [_load(predictor, file) for file in chunk]
        pictures = [read for read in loaded if not isinstance(read, str)]
        names = [str(file) for file, picture in zip(chunk, loaded, strict=True) if not isinstance(picture, str)]
        drawn = _draw(predictor, pictures, names, options, said)
        for file, picture in zip(chunk, loaded, strict=True):
            if isinstance(picture, str):
                failure = predictor.task.failure(str(file), picture)
                yield {"json": {**failure.json(), "output": None, "maps": {}}, "rows": []}
                continue
            image, result, peaks = next(drawn)
            output = folder / f"{free_name(short_stem(file), taken)}.png"
            try:
                image.save(output)
            except OSError as error:
                raise WorkError(f"{output}: cannot be written ({error.strerror or error})") from None
            yield {"json": {**result.json(), "output": str(output), "maps": peaks}, "rows": result.rows()}


def _load(predictor: "Predictor", file: Found) -> "_Read | str":
    """(H, W, C) as the model sees it, and the picture's own height and width; or why it cannot be used."""
    from crosscale.data import BadImage

    try:
        return predictor.read(file, str(file))
    except BadImage as error:
        return error.reason


def _draw(
    predictor: "Predictor",
    pictures: "Sequence[_Read]",
    names: Sequence[str],
    options: argparse.Namespace,
    said: Mapping[str, int],
) -> Iterator[tuple[Any, Any, dict[str, float]]]:
    """The figure of each picture, its result, and each map's largest weight as a multiple of its average."""
    import numpy as np

    from crosscale.explain import describe_maps, explain
    from crosscale.explain.draw import figure, peak

    spec, task = predictor.spec, predictor.task
    # One batch of the size that is compiled; pictures that keep their own shapes come one by one.
    equal = all(image.shape[:2] == spec.size for image, _ in pictures)
    count = options.batch_size if equal else 1
    for start in range(0, len(pictures), count):
        part = pictures[start : start + count]
        batch = np.zeros((count, *part[0][0].shape), spec.dtype)
        batch[: len(part)] = np.stack([image for image, _ in part])
        sizes = [size for _, size in part]
        outputs, values = explain(
            predictor.model,
            predictor.variables,
            batch,
            spec=spec,
            position=options.position,
            direction=options.direction or "received",
            method=task.method,
            sizes=predictor.contents(sizes + sizes[-1:] * (count - len(part))),
        )
        maps = describe_maps(predictor.model, batch.shape[1:3])
        results = predictor.results(outputs[: len(part)], names[start : start + count], sizes, **said)
        for i, ((image, _), result) in enumerate(zip(part, results, strict=True)):
            own = {name: x[i] for name, x in values.items()}
            peaks = {m.name: peak(own[m.name]) for m in maps}
            sheet = figure(image, maps, own, result.caption(), position=options.position, folded=options.all_maps)
            yield sheet, result, peaks


def _print(done: Sequence[dict[str, Any]], task: "Task") -> None:
    rows = [[item["json"]["source"], item["json"]["output"], *item["rows"][0]] for item in done if item["rows"]]
    if rows:
        print_table(["image", "attention", *task.columns], rows, right=task.numeric)
