"""`crosscale predict`: what a model says of image files."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from crosscale.cli.arguments import (
    Parser,
    add_engine_option,
    add_host_options,
    add_model_options,
    add_result_options,
    add_test_options,
    check_model_options,
    host_options,
    positive_int,
    result_options,
)
from crosscale.cli.output import check_outside, free_name, note, print_json, print_table, progress_bar, short_stem
from crosscale.cli.predict_file import is_one_file, open_predictors, predict_to_file, sorted_copies
from crosscale.cli.standard_input import WORD, StandardInput, read_standard_input
from crosscale.errors import RequestError

if TYPE_CHECKING:
    from crosscale.contracts import InputSpec
    from crosscale.tasks.task import Result, Task

# What a command reads a picture from: a path or standard input. As Any, since the code below treats both alike.
Found: TypeAlias = Any

HELP = """\
Names the most probable classes of image files, with their probabilities.

IMAGE is a file or a folder, which is searched for images at any depth, or - for a picture on standard input. The
pictures are prepared exactly as in validation. A file that cannot be used is reported on standard error and the
rest go on."""

EPILOG = """\
examples:
  crosscale predict --run runs/digits three.png
  crosscale predict --run runs/digits folder/ --top-k 3 --json
  curl https://example.org/three.png | crosscale predict --run runs/digits -
  crosscale predict --model crossvit_9_240 --weights model.safetensors --classes names.txt photo.jpg
  crosscale predict --run runs/photos archive/ --output results.csv --batch-size 128
  crosscale predict --run runs/photos archive/ --output results.csv --batch-size 128 --resume
  crosscale predict --run runs/photos archive/ --sort-into sorted
  crosscale predict --run runs/photos photo.jpg --tta flips,scales
  crosscale predict --run runs/photos archive/ --output results.csv --engine auto
  crosscale predict --run runs/photos-1 --run runs/photos-2 --run runs/photos-3 photo.jpg
  crosscale predict --run runs/scenes photo.jpg --output masks
  crosscale predict --run runs/scenes photo.jpg --output masks --task.test_scales "[0.75, 1.0, 1.25]"

JSON: {"predictions": [{"source", "classes", "probabilities", "error"}, ...], "failed": number of bad files}
  with a file as --output: {"output", "images": results in it, "predicted": those of this call, "failed"}

exit status:
  0  every image was predicted
  1  some file could not be used (the others are printed), or the work failed
  2  the request was wrong (unknown option, no such file, weights that do not fit)"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Prints the predictions; returns 1 if a file could not be used. Raises RequestError, WorkError."""
    parser = Parser("predict", description=HELP, epilog=EPILOG)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    add_model_options(parser, class_names=True, several=True)
    parser.add_argument(
        "--tta",
        metavar="SETS",
        type=lambda text: text.split(","),
        default=[],
        help="average over views of each image: flips, crops, scales, or several with commas between them",
    )
    add_result_options(parser)
    add_test_options(parser)
    parser.add_argument(
        "--output",
        metavar="PLACE",
        type=Path,
        help="a .csv, .parquet or .jsonl file, a row for each image, written as they come; or a folder for results.csv "
        "and each result's own files, such as a mask",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the file of --output where a run stopped")
    parser.add_argument(
        "--sort-into",
        metavar="DIR",
        type=Path,
        help="copy each image into the folder DIR/<its class>, never over a file",
    )
    parser.add_argument(
        "--batch-size", metavar="B", type=positive_int, default=32, help="images per forward (default 32)"
    )
    add_engine_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_host_options(parser)
    options = parser.parse(argv)
    options.runs = options.run or []
    options.run = next(iter(options.runs), None)
    check_model_options(options)
    one_file = options.output is not None and is_one_file(options.output)
    if options.resume and not one_file:
        raise RequestError("--resume goes with --output results.csv, .parquet or .jsonl")
    start = host_options(options)
    if WORD in options.images and (start is not None or options.sort_into is not None):
        why = "--sort-into copies files" if start is None else "several processes read files"
        raise RequestError(f"-: {why}, and standard input is not one; give the file's name")
    files = find_images(options.images)
    from crosscale.cluster.hosts import together

    with together(start):  # before anything touches the devices
        return predict_to_file(options, files, as_json=as_json) if one_file else _run(options, files, as_json=as_json)


def _run(options: argparse.Namespace, files: list[Found], *, as_json: bool) -> int:
    from crosscale.cluster.hosts import is_first

    task, own = _predict_share(options, files)
    predictions = _gather(own)
    failed = sum(item["json"]["error"] is not None for item in predictions)
    if is_first() and options.output is not None:
        _write_csv(options.output / "results.csv", predictions, task)
        for name, content in task.together([item["json"] for item in predictions]).items():
            _write_file(options.output / name, content)
    if is_first() and as_json:
        print_json({"predictions": [item["json"] for item in predictions], "failed": failed})
    elif is_first():
        _print_table(predictions, task)
    if is_first() and failed:
        note(f"crosscale predict: {failed} of {len(files)} files could not be used")
    return 1 if failed else 0


def _predict_share(options: argparse.Namespace, files: list[Found]) -> "tuple[Task, list[dict[str, Any]]]":
    """The task and this process's results, as "json" and "rows"; several processes take files in turn."""
    import jax

    # A batch is filled up to its size, so a batch larger than the work would only compute padding.
    batch_size = max(1, min(options.batch_size, len(files[jax.process_index() :: jax.process_count()])))
    predictor = open_predictors(options, batch_size)
    if options.output is not None and has_pictures(predictor.task):
        check_outside("--output", options.output, options.images, "what is drawn")
    folder = _made(options.output)
    taken: dict[str, int] = {}
    # All files get theirs here, so that several processes agree on them.
    names = [free_name(short_stem(file), taken) if folder is not None else "" for file in files]
    names = names[jax.process_index() :: jax.process_count()]
    copies = sorted_copies(options, predictor.task, files)
    files = files[jax.process_index() :: jax.process_count()]
    said = result_options(options, predictor.task)
    predictions: list[dict[str, Any]] = []
    with progress_bar("predicting") as report:
        for file, name, prediction in zip(
            files, names, predictor.predict(files, batch_size=batch_size, **said), strict=True
        ):
            written = _write(prediction, file, folder / name, predictor.spec) if folder is not None else []
            plain = {**prediction.json(), "files": written} if folder is not None else prediction.json()
            predictions.append({"json": plain, "rows": prediction.rows()})
            if copies is not None:
                copies.add(file, plain)
            report(len(predictions), len(files))
            if prediction.error is not None:
                note(f"crosscale predict: {prediction.source}: {prediction.error}")
    if copies is not None:
        copies.tell()
    return predictor.task, predictions


def has_pictures(task: "Task") -> bool:
    """Whether files go with a task's results; all that do are pictures."""
    from crosscale.tasks.defaults import PlainResult

    return type(task.failure("", "")).files is not PlainResult.files


def _made(folder: "Path | None") -> "Path | None":
    """The folder, which exists afterwards. Raises RequestError."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--output {folder}: no folder can be made there ({error.strerror})") from None
    return folder


def _write(prediction: "Result", file: Found, start: Path, spec: "InputSpec") -> list[str]:
    """Writes a result's files, each named `start` plus its own ending; returns the paths. Raises WorkError."""
    if prediction.error is not None or spec.pixels != "uint8" or spec.pictures > 1:  # no task writes files for them
        return []
    from crosscale.data.decode import decode
    from crosscale.data.pictures import decodable

    written = []
    for end, content in prediction.files(decode(decodable(file, str(file)), spec.channels, str(file))).items():
        place = start.with_name(start.name + end)
        _write_file(place, content)
        written.append(str(place))
    return written


def _write_file(place: Path, content: bytes) -> None:
    """Raises WorkError."""
    from crosscale.errors import WorkError

    try:
        place.write_bytes(content)
    except OSError as error:
        raise WorkError(f"{place}: cannot be written ({error.strerror or error})") from None


def _write_csv(file: Path, predictions: Sequence[dict[str, Any]], task: "Task") -> None:
    """A line for each row that people see, with the picture's path before it. Raises WorkError."""
    import csv

    from crosscale.errors import WorkError

    try:
        with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", *task.columns, "error"])
            for item in predictions:
                source, error = item["json"]["source"], item["json"]["error"] or ""
                writer.writerows([source, *cells, error] for cells in item["rows"] or [("",) * len(task.columns)])
    except OSError as error:
        raise WorkError(f"{file}: cannot be written ({error.strerror or error})") from None


def _gather(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of all processes, in the order of the files."""
    import jax

    if jax.process_count() == 1:
        return predictions
    from crosscale.cluster.hosts import all_texts

    parts = [json.loads(text) for text in all_texts(json.dumps(predictions))]
    turns = range(sum(map(len, parts)))
    return [parts[turn % len(parts)][turn // len(parts)] for turn in turns]


def find_images(words: Sequence[str], verb: str = "predict") -> list[Found]:
    """The files that are named, those of named tables, and the image files at any depth of named folders, in order.

    A name that does not exist stays in the list, to be reported in its place. "-" is what standard input holds.

    Args:
      verb: that a line on what is passed over names.

    Raises:
      RequestError: none of the names exists, a folder holds no image, or standard input no picture.
    """
    from crosscale.data.names import count_extensions, extensions, is_array, is_picture, passed_over_text
    from crosscale.data.table_rows import is_table, table_paths

    if words.count(WORD) > 1:
        raise RequestError("-: standard input holds one picture; name it once")
    paths = [Path(word).expanduser() if word != WORD else read_standard_input() for word in words]
    if not any(isinstance(path, StandardInput) or _exists(path) for path in paths):
        raise RequestError(f"{paths[0]}: no such file or folder")
    files: list[Found] = []
    for path in paths:
        if isinstance(path, StandardInput):
            files.append(path)
            continue
        if not os.path.isdir(path):  # which takes what is too long for a path
            files += table_paths(path) if is_table(path) else [path]
            continue
        walked = _walk(path)
        found = [file for file in walked if is_picture(file.name)]
        found = found or [file for file in walked if is_array(file.name)]
        others = count_extensions(file.name for file in sorted({*walked} - {*found}))
        if not found:
            but = f", {passed_over_text(others)}" if others else ""
            raise RequestError(f"{path}: holds no images (files ending in {', '.join(sorted(extensions()))}){but}")
        if others:
            note(f"crosscale {verb}: {path}: {passed_over_text(others)}")
        files += found
    return files


def _exists(path: Path) -> bool:
    """Whether one of the pictures that a path names is there."""
    from crosscale.data.pictures import SEPARATOR

    return any(os.path.exists(part) for part in (str(path), *str(path).split(SEPARATOR)))


def _walk(root: Path) -> list[Path]:
    """The files below a folder, sorted by path, except those hidden or left behind by other programs."""

    def refuse(error: OSError) -> None:
        raise RequestError(f"{error.filename}: cannot be listed ({error.strerror})")

    from crosscale.data.names import is_left_behind

    files = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):  # training follows links, too
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back to where the walk has been
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_left_behind(name))
        files += [Path(folder, name) for name in names if not is_left_behind(name)]
    return sorted(files)


def _print_table(predictions: Sequence[dict[str, Any]], task: "Task") -> None:
    rows = [
        [item["json"]["source"] if rank == 0 else "", *cells]
        for item in predictions
        for rank, cells in enumerate(item["rows"])
    ]
    if rows:
        print_table(["image", *task.columns], rows, right=task.numeric)
