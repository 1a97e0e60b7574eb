"""`crosscale explain`: what a model looks at in image files, drawn over them at every scale."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import (
    Parser,
    add_model_options,
    check_model_options,
    open_predictor,
    positive_int,
)
from crosscale.cli.output import note, print_json, print_table, progress
from crosscale.cli.predict import find_images
from crosscale.errors import RequestError, WorkError

if TYPE_CHECKING:
    import numpy as np

    from crosscale.predictor import Predictor

HELP = """\
Draws a model's attention over image files: one PNG per image, its scales side by side, with the prediction.

CrossViT: per branch (small and large patches) what its CLS token attends to, what the other branch's CLS token
attends to across, and both rolled out over all layers. CrossFormer: per stage the short- and long-distance
groups, either of one place of the picture (--position), or the attention that every cell receives on average.

IMAGE is a file or a folder, which is searched for images at any depth. The pictures are prepared exactly as in
validation, and drawn as the model sees them. A file that cannot be used is reported and the rest go on."""

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

_NOTHING: dict[str, Any] = {"classes": [], "probabilities": [], "maps": {}}


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Writes the pictures; returns 1 if a file could not be used. Raises RequestError, WorkError."""
    options = _parser().parse(argv)
    check_model_options(options)
    files = find_images(options.images)
    folder = _output_folder(options.output)

    predictor = open_predictor(options)
    from crosscale.explain import describe_maps

    describe_maps(predictor.model, predictor.spec.size)
    # A batch is filled up to its size, so a batch larger than the work would only compute padding.
    options.batch_size = min(options.batch_size, len(files))
    done: list[dict[str, Any]] = []
    with progress("explaining") as report:
        for result in _explain_files(predictor, files, folder, options):
            done.append(result)
            report(len(done), len(files))
            if result["error"] is not None:
                note(f"crosscale explain: {result['source']}: {result['error']}")
    failed = sum(result["error"] is not None for result in done)
    if as_json:
        print_json({"explanations": done, "failed": failed})
    else:
        _print(done)
    if failed:
        note(f"crosscale explain: {failed} of {len(files)} files could not be used")
    return 1 if failed else 0


def _parser() -> Parser:
    parser = Parser("explain", description=HELP, epilog=EPILOG)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    add_model_options(parser, class_names=True)
    parser.add_argument("--output", metavar="DIR", required=True, help="the folder for the PNG files; made if need be")
    parser.add_argument(
        "--position",
        metavar="Y,X",
        type=_position,
        help="CrossFormer: the place in question, as fractions of height and width (0.5,0.5 is the centre)",
    )
    parser.add_argument(
        "--direction",
        choices=("received", "given"),
        default="received",
        help="with --position: attention that the place receives (default), or that it gives",
    )
    parser.add_argument(
        "--top-k", metavar="K", type=positive_int, default=3, help="classes to name per image (default 3)"
    )
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
    predictor: "Predictor", files: Sequence[Path], folder: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One result per file, in order; the PNG is written before its result is given."""
    taken: set[str] = set()
    remaining = iter(files)
    while chunk := list(islice(remaining, options.batch_size)):
        loaded = [_load(predictor, file) for file in chunk]
        pictures = [picture for picture in loaded if not isinstance(picture, str)]
        drawn = iter(_draw(predictor, pictures, options)) if pictures else iter(())
        for file, picture in zip(chunk, loaded, strict=True):
            if isinstance(picture, str):
                yield {"source": str(file), "output": None, **_NOTHING, "error": picture}
                continue
            image, result = next(drawn)
            output = folder / _free_name(file.stem, taken)
            try:
                image.save(output)
            except OSError as error:
                raise WorkError(f"{output}: cannot be written ({error.strerror or error})") from None
            yield {"source": str(file), "output": str(output), **result, "error": None}


def _load(predictor: "Predictor", file: Path) -> "np.ndarray | str":
    """(H, W, C) uint8 as the model is to see it, or why not."""
    from crosscale.data import BadImage

    try:
        return predictor.prepare(file, str(file))
    except BadImage as error:
        return error.reason


def _draw(
    predictor: "Predictor", pictures: Sequence["np.ndarray"], options: argparse.Namespace
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The figure of each picture, and what is reported of it."""
    import numpy as np

    from crosscale.explain import describe_maps, explain
    from crosscale.explain.draw import Prediction, figure, peak

    spec = predictor.spec
    batch = np.zeros((options.batch_size, *spec.size, spec.channels), np.uint8)
    batch[: len(pictures)] = np.stack(pictures)
    outputs, values = explain(
        predictor.model,
        predictor.variables,
        batch,
        spec=spec,
        position=options.position,
        direction=options.direction,
    )
    maps = describe_maps(predictor.model, spec.size)
    decoded = predictor.decode(outputs, options.top_k)
    for i, picture in enumerate(pictures):
        classes, probabilities = zip(*decoded[i], strict=True)
        own = {name: x[i] for name, x in values.items()}
        peaks = {m.name: peak(own[m.name]) for m in maps}
        result = {"classes": classes, "probabilities": probabilities, "maps": peaks}
        yield figure(picture, maps, own, Prediction(classes, probabilities), position=options.position), result


def _free_name(stem: str, taken: set[str]) -> str:
    """<stem>.png, or <stem>-2.png and so on for further files of that name."""
    name, count = f"{stem}.png", 1
    while name.casefold() in taken:
        count += 1
        name = f"{stem}-{count}.png"
    taken.add(name.casefold())
    return name


def _print(done: Sequence[dict[str, Any]]) -> None:
    rows = [
        [item["source"], item["output"], item["classes"][0], f"{100 * item['probabilities'][0]:.2f} %"]
        for item in done
        if item["error"] is None
    ]
    if rows:
        print_table(["image", "attention", "class", "probability"], rows, right=["probability"])
