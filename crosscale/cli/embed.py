"""`crosscale embed`: the features that a model sees in image files, for searching and clustering."""

from collections.abc import Sequence
from pathlib import Path

from crosscale.cli.arguments import (
    EXIT_STATUS,
    Parser,
    add_model_options,
    check_model_options,
    open_predictor,
    positive_int,
)
from crosscale.cli.output import note, print_json, progress_bar
from crosscale.cli.predict import find_images
from crosscale.errors import WorkError

HELP = """\
Writes a vector for each image: the model's pooled features, of every branch and joined, with the image's path.

IMAGE is a file or a folder, which is searched for images at any depth, or - for a picture on standard input. The
pictures are prepared exactly as in validation. A file that cannot be used is reported on standard error and left
out."""

EPILOG = f"""\
examples:
  crosscale embed --run runs/photos photos --output photos.npz
  crosscale embed --model crossvit_9_240 --weights model.safetensors photos --output photos.parquet

The file holds paths, branch_0, branch_1, ... and joined.

JSON: {{"output", "images", "failed", "branches": lengths of the branches' vectors}}

{EXIT_STATUS}"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Writes the file; returns 1 if an image could not be used. Raises RequestError, WorkError."""
    parser = Parser("embed", description=HELP, epilog=EPILOG)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    add_model_options(parser, class_names=False)
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="a .npz or .parquet file to write")
    parser.add_argument(
        "--batch-size", metavar="B", type=positive_int, default=32, help="images per forward (default 32)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse(argv)
    check_model_options(options)
    files = find_images(options.images, "embed")
    from crosscale.runs.embed import check_output, embed, write_embedded

    check_output(options.output)
    options.classes = None
    predictor = open_predictor(options)
    with progress_bar("embedding") as report:
        found = embed(predictor, files, batch_size=min(options.batch_size, len(files)), progress=report)
    for line in found.failures:
        note(f"crosscale embed: {line}")
    if not found.paths:
        raise WorkError("none of the images could be used, so nothing was written")
    write_embedded(found, options.output)
    lengths = [branch.shape[1] for branch in found.branches]
    if as_json:
        counts = {"images": len(found.paths), "failed": len(found.failures), "branches": lengths}
        print_json({"output": str(options.output), **counts})
    else:
        print(options.output)
    return 1 if found.failures else 0
