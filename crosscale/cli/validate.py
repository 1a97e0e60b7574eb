"""`crosscale validate`: loss and accuracy of a model on labelled pictures."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import (
    Parser,
    add_host_options,
    add_model_options,
    add_test_options,
    check_model_options,
    held_out_share,
    host_options,
    positive_int,
    refuse_given,
    share,
    test_options,
)
from crosscale.cli.output import note, print_json, print_table
from crosscale.errors import RequestError

if TYPE_CHECKING:
    from crosscale.tasks.measure import Measure
    from crosscale.tasks.sections import Table

_NAMED = 20  # pictures that did not decode

HELP = """\
Measures a model on labelled pictures: cross-entropy loss, top-1 and top-5 accuracy, images per second.

The command prepares the pictures as the weights ask for, and counts each one once. A run knows its own data, so you
need --data-dir only for other data. Their classes must be among the run's, and are matched by name. Where the data
comes as one folder, the command measures the part that --val-fraction and --seed hold out, or all of it with
--split all."""

EPILOG = """\
examples:
  crosscale validate --run runs/digits
  crosscale validate --run runs/digits --split train --json
  crosscale validate --run runs/streets --task.window "[512, 512]" --task.test_flip true
  crosscale validate --run runs/digits --details --csv tables
  crosscale validate --model crossvit_9_240 --weights model.safetensors --data-dir imagenet

JSON: {"top1", "top5", "loss", "balanced_accuracy", "macro_precision", "macro_f1", "weighted_f1", "auroc",
"kappa", "quadratic_kappa", "ece", "images_per_second", "examples", "skipped", ...}; accuracies are fractions.

exit status:
  0  done
  1  the work failed (a picture that does not decode, not enough memory)
  2  the request was wrong (unknown option, missing data, other classes than the model's)"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Prints the metrics. Raises RequestError, WorkError."""
    options = _parser().parse(argv)
    check_model_options(options)
    if options.run is None and options.data_dir is None:
        raise RequestError("--model needs --data-dir D; only a run knows its own data")
    if options.split == "all":
        refuse_given(options, ["val_fraction", "seed"], "chooses what is held out; --split all measures everything")
    if as_json:
        refuse_given(options, ["details"], "prints tables for people; leave --json out, or write them with --csv DIR")

    start = host_options(options)
    from crosscale.cluster.hosts import together

    with together(start):  # before anything touches the devices
        return _run(options, as_json=as_json)


def _run(options: argparse.Namespace, *, as_json: bool) -> int:
    from crosscale.cluster.hosts import is_first
    from crosscale.runs.validate import evaluate_run

    result, task, tables, errors = evaluate_run(
        run=options.run,
        model=options.model,
        weights=options.weights,
        weights_key=options.weights_key,
        data_dir=options.data_dir,
        split=options.split,
        val_fraction=options.val_fraction,
        seed=options.seed,
        root=options.root,
        batch_size=options.batch_size,
        crop_pct=options.crop_pct,
        crop_mode=options.crop_mode,
        workers=options.workers,
        on_bad_image=options.on_bad_image,
        task_options=test_options(options),
        details=options.details or options.csv is not None,
    )
    if not is_first():
        return 0
    if options.csv is not None:
        _write(tables, options.csv)
    if as_json:
        print_json(result)
    else:
        _print(result, task.measures)
        for table in tables if options.details else ():
            print_table(table.columns, table.rows, right=[table.columns[i] for i in table.numeric], title=table.title)
    for error in errors[:_NAMED]:
        note(f"crosscale validate: left out: {error}")
    if result["skipped"]:
        total = result["skipped"] + result["examples"]
        note(f"crosscale validate: left out {result['skipped']} of {total} pictures that did not decode")
    return 0


def _parser() -> Parser:
    parser = Parser("validate", description=HELP, epilog=EPILOG)
    add_model_options(parser, class_names=False)
    group = parser.add_argument_group("the data")
    group.add_argument("--data-dir", metavar="D", help="a folder of images, a table, or digits (default: the run's)")
    group.add_argument("--root", metavar="R", help="what a table's paths are relative to (default: its folder)")
    group.add_argument(
        "--split",
        choices=("val", "train", "all"),
        default="val",
        help="which part; all is everything in data of one part (default val)",
    )
    group.add_argument(
        "--val-fraction", metavar="P", type=held_out_share, help="share held out (default: the run's, or 0.2)"
    )
    group.add_argument("--seed", metavar="N", type=int, help="of the held-out part (default: the run's, or 0)")
    group.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="a picture that does not decode ends the work, or is left out and counted (default error)",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=0,
        help="processes that load; 0 loads in threads (default 0)",
    )
    parser.add_argument(
        "--batch-size", metavar="B", type=positive_int, help="images per forward (default: the run's, or 256)"
    )
    parser.add_argument(
        "--details", action="store_true", help="print the report's tables too, such as that of the classes"
    )
    parser.add_argument("--csv", metavar="DIR", type=Path, help="write these tables there as CSV files")
    parser.add_argument("--crop-pct", metavar="P", type=share, help="share of the side that the centre crop keeps")
    parser.add_argument(
        "--crop-mode",
        choices=("center", "pad", "squash"),
        help="how pictures of another shape are fitted (default: the weights' own)",
    )
    add_test_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_host_options(parser)
    return parser


def _write(tables: "Sequence[Table]", folder: Path) -> None:
    """A CSV file for each table. Raises WorkError."""
    import csv

    from crosscale.errors import WorkError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables:
            with (folder / f"{table.id}.csv").open(
                "w", newline="", encoding="utf-8", errors="surrogateescape"
            ) as stream:
                csv.writer(stream).writerows([table.columns, *table.rows])
    except OSError as error:
        raise WorkError(f"--csv {folder}: cannot be written ({error.strerror or error})") from None


def _print(result: Mapping[str, Any], measures: "Mapping[str, Measure]") -> None:
    rows = [
        *([measure.label, measure.shown(result[name])] for name, measure in measures.items()),
        ["examples", f"{result['examples']:,}"],
        ["images/s", f"{result['images_per_second']:,.1f}"],
    ]
    print_table([f"{result['split']} of {result['data_dir']}", ""], rows, right=[""])
