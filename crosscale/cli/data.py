"""`crosscale data`: what a data set holds, and the same data as an ordinary image folder."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crosscale.cli.arguments import EXIT_STATUS, Parser, held_out_share, positive_int, refuse_given
from crosscale.cli.data_labels import describe_labels
from crosscale.cli.data_masks import describe_masks
from crosscale.cli.data_objects import describe_objects
from crosscale.cli.data_statistics import describe_statistics
from crosscale.cli.output import note, print_json, progress_bar
from crosscale.errors import RequestError

if TYPE_CHECKING:
    from crosscale.contracts import LabelledSource
    from crosscale.data.picture_check import PictureCheck

HELP = """\
Describes a data set as training sees it: the splits, the classes in label order, the pictures of each.

DATA is labelled pictures, as `crosscale train --data-dir` takes them: "digits" (the handwritten digits that
ship with scikit-learn), a folder with train/<class>/ and val/<class>/, a folder of class folders (of which
a part is held out for validation), a table of paths and labels (.csv, .tsv, .jsonl, .parquet), a folder of .tar
or .parquet shards, hf:owner/name, or an .npz file. --check reads every picture: sizes and modes, pictures of
equal content, which of them are both to train on and held out, and files that do not decode (exit status 1).
--statistics measures the mean and deviation of each channel over the pictures to train on, 16 bits, many channels and
.npy included, and prints the recipe's lines for them.
For a folder of pictures with masks it prints the layout and the classes; --check reads every picture and mask,
prints each class's share of the pixels, and names the files that cannot be used (exit status 1).
For pictures with boxes (COCO, YOLO, Pascal VOC, parquet) it prints the layout, the objects of each class and
what is left out; --check names every annotation that is wrong (exit status 1), --draw N draws N pictures with them.
--write saves both splits as an ordinary image folder, OUT/train/<class>/*.png and OUT/val/<class>/*.png.
"scenes" are digits over photographs, which --write composes: OUT/images and OUT/masks, or with --boxes
OUT/images and OUT/annotations."""

EPILOG = f"""\
examples:
  crosscale data digits
  crosscale data photos --json
  crosscale data satellite --statistics
  crosscale data photos.csv --root /data/photos --label-column breed --check
  crosscale data digits --write digits-folder
  crosscale data streets --check
  crosscale data coco --check --draw 20 --write drawn
  crosscale data scenes --write scenes

{EXIT_STATUS}"""

_OF_TABLES = ("root", "path_column", "label_column", "split_column")
_NOT_OF_SCENES = ("check", "draw", "statistics", "val_fraction", "reduce_zero_label", *_OF_TABLES)
SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Prints the data set's description, after writing it out if asked to."""
    options = _parser().parse(argv)
    if options.data == "scenes" and not Path("scenes").exists():
        return _compose(options, as_json)
    options.val_fraction = 0.2 if options.val_fraction is None else options.val_fraction
    if options.statistics and (options.write is not None or options.check):
        raise RequestError("--statistics measures and does nothing else; give --write or --check without it")
    if _has_objects(options):
        return _objects(options, as_json)
    if _has_masks(options):
        return describe_masks(
            options.data,
            val_fraction=options.val_fraction,
            seed=options.seed,
            reduce_zero_label={None: None, "yes": True, "no": False}[options.reduce_zero_label],
            check=options.check,
            as_json=as_json,
        )
    out = None if options.write is None else Path(options.write).expanduser()
    if out is not None:
        _check_writable(out)

    sources = _open(options)
    if options.statistics:
        return describe_statistics(options.data, sources["train"], as_json=as_json)
    if out is not None:
        _write(sources, out)
    found = _check(sources) if options.check else None
    describe_labels(options.data, sources, out, found, as_json=as_json)
    return 1 if found is not None and found.problems else 0


def _parser() -> Parser:
    parser = Parser("data", description=HELP, epilog=EPILOG)
    parser.add_argument(
        "data", metavar="DATA", help="digits, a folder of images or shards, a table, hf:owner/name, or .npz"
    )
    parser.add_argument("--write", metavar="OUT", help="write both splits here; a new or empty folder")
    parser.add_argument(
        "--val-fraction",
        metavar="P",
        type=held_out_share,
        help="share of each class held out where the data has no val/ (default 0.2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that split (default 0)")
    parser.add_argument(
        "--boxes", action="store_true", help="read boxes where there are masks of classes too; with scenes, write boxes"
    )
    parser.add_argument(
        "--draw",
        metavar="N",
        type=positive_int,
        help="draw N pictures with their boxes and masks into OUT (default: NAME-drawn)",
    )
    parser.add_argument("--check", action="store_true", help="read every picture and mask, and say what is wrong")
    parser.add_argument(
        "--statistics",
        action="store_true",
        help="measure mean and deviation of each channel over the pictures to train on, as lines for the recipe",
    )
    group = parser.add_argument_group("tables, as the recipe's keys of the same names")
    group.add_argument("--root", metavar="R", help="what the paths are relative to (default: the table's folder)")
    for name, what in (("path", "of paths"), ("label", "of classes"), ("split", "of train or val")):
        group.add_argument(f"--{name}-column", metavar="NAME", help=f"the column {what} (default: recognised)")
    parser.add_argument(
        "--reduce-zero-label",
        choices=("yes", "no"),
        help="in masks, whether the value 0 is ignored and classes count from 1 (default: yes for ADE20K, else no)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _open(options: argparse.Namespace) -> "dict[str, LabelledSource]":
    from crosscale.data import open_source
    from crosscale.data.once import read_once
    from crosscale.data.table_rows import TableColumns, is_table

    columns = TableColumns(path=options.path_column, split=options.split_column, label=options.label_column)
    if columns != TableColumns() and not is_table(options.data):
        raise RequestError(
            f"--path-column, --label-column and --split-column are for tables, and {options.data} is not one"
        )
    how: dict[str, Any] = {"val_fraction": options.val_fraction, "seed": options.seed}
    with read_once():
        return {split: open_source(options.data, split, columns=columns, root=options.root, **how) for split in SPLITS}


def _check(sources: "Mapping[str, LabelledSource]") -> "PictureCheck":
    from crosscale.data.picture_check import check_pictures

    with progress_bar("checking") as report:
        return check_pictures(sources, report)


def _compose(options: argparse.Namespace, as_json: bool) -> int:
    """Writes the scenes."""
    from crosscale.data.scenes import CLASSES, write_scenes

    refuse_given(
        options, _NOT_OF_SCENES, "says how to read data, and scenes are composed; give it with the folder of them"
    )
    if options.write is None:
        raise RequestError("scenes are composed into a folder: give --write OUT")
    out = Path(options.write).expanduser()
    _check_writable(out)
    with progress_bar("composing") as report:
        count = write_scenes(out, seed=options.seed, progress=report, kind="objects" if options.boxes else "masks")
    classes = list(CLASSES[1:] if options.boxes else CLASSES)
    if as_json:
        print_json({"data": "scenes", "classes": classes, "scenes": count, "written": str(out)})
    recipe = "objects" if options.boxes else "scenes"
    note(f"wrote {count:,} scenes to {out}; to train on them: crosscale train --config {recipe} --data-dir {out}")
    return 0


def _objects(options: argparse.Namespace, as_json: bool) -> int:
    """Tells of pictures with boxes."""
    out = None
    if options.draw is not None:
        out = Path(options.write or f"{Path(options.data.removeprefix('hf:')).resolve().stem}-drawn").expanduser()
        _check_writable(out)
    elif options.write is not None:
        raise RequestError(
            "--write makes a folder of labelled pictures; pictures with boxes are in files already, and --draw N "
            "writes some of them with their boxes"
        )
    return describe_objects(
        options.data,
        val_fraction=options.val_fraction,
        seed=options.seed,
        check=options.check,
        draw=options.draw,
        out=out,
        as_json=as_json,
    )


def _has_objects(options: argparse.Namespace) -> bool:
    """Whether the data holds pictures with boxes; raises RequestError for options that do not go with it."""
    from crosscale.data.mask_folder import has_masks
    from crosscale.data.mask_layouts import find_layout
    from crosscale.data.object_layouts import KNOWN, has_objects

    found = has_objects(options.data) or (options.boxes and options.data.startswith("hf:"))
    if found and not options.boxes and has_masks(options.data):
        try:
            # Data with boxes uses the same folder names, so only a pair of picture and mask tells.
            found = not find_layout(Path(options.data).expanduser()).parts
        except RequestError:
            found = True
    for option, given in (("--boxes", options.boxes), ("--draw", options.draw is not None)):
        if given and not found:
            raise RequestError(f"{option} is for pictures with boxes, and {options.data} holds none: {KNOWN}")
    if found and options.reduce_zero_label is not None:
        raise RequestError(f"--reduce-zero-label is for masks, and {options.data} holds boxes")
    if found:
        _refuse_labels(options, "boxes")
    return found


def _refuse_labels(options: argparse.Namespace, held: str) -> None:
    """Refuses the options that read labels, for data of another kind. Raises RequestError."""
    refuse_given(options, ["statistics"], f"is for labelled pictures, and {options.data} holds {held}")
    refuse_given(options, _OF_TABLES, f"is for tables, and {options.data} holds {held}")


def _has_masks(options: argparse.Namespace) -> bool:
    """Whether the data holds pictures with masks; raises RequestError for options that do not go with it."""
    from crosscale.data.mask_folder import has_masks
    from crosscale.data.mask_layouts import KNOWN

    found = has_masks(options.data)
    if found and options.write is not None:
        raise RequestError("--write makes a folder of labelled pictures; pictures with masks are in files already")
    if options.reduce_zero_label is not None and not found:
        raise RequestError(f"--reduce-zero-label is for pictures with masks, and {options.data} holds none: {KNOWN}")
    if found:
        _refuse_labels(options, "masks")
    return found


def _check_writable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RequestError(f"--write {out}: a file stands there; give a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise RequestError(f"--write {out}: the folder is not empty; give a new or empty one")


def _write(sources: "Mapping[str, LabelledSource]", out: Path) -> None:
    from crosscale.data import write_image_folder

    with progress_bar("writing") as report:
        write_image_folder(sources, out, progress=report)
    note(f"wrote {sum(map(len, sources.values())):,} images to {out}")
