"""`crosscale bench`: speed, beside the libraries that people would use instead."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from crosscale.cli.arguments import Parser, positive_int
from crosscale.cli.output import note, print_json, print_table, progress
from crosscale.errors import RequestError

HELP = """\
Measures speed. --mode data: how fast training pictures are fed, stage by stage.

It makes JPEG files of ImageNet's size distribution from the photographs that ship with scikit-image and
scikit-learn, and lets all contenders take turns on them: raw libjpeg-turbo (simplejpeg), this package, and torch's
DataLoader with timm's transforms, if --peer-python has them. "per core" is images per second of CPU time, over all
threads and processes, which other work on the machine hardly changes."""

EPILOG = """\
examples:
  crosscale bench --mode data
  crosscale bench --mode data --peer-python /path/to/python --fast
  crosscale bench --mode data --images 64 --rounds 2 --json

JSON: {"rows": [{"stage", "who", "per_core", "low", "high", "wall"}], "ratios", "fast_deviation", "images",
"mean_bytes", "size", "rounds", "threads", "cores", "load"}.

exit status:
  0  done
  1  the work failed
  2  the request was wrong (a mode that is not there, a library or peer that is missing)"""

MODES = ("data",)


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Measures and prints. Raises RequestError, WorkError."""
    options = _parser().parse(argv)
    if options.mode not in MODES:
        raise RequestError(f"--mode {options.mode}: only {', '.join(MODES)} is measured so far")
    result = _data(options)
    if as_json:
        print_json(result)
    else:
        _print(result)
    return 0


def _parser() -> Parser:
    parser = Parser("bench", description=HELP, epilog=EPILOG)
    parser.add_argument("--mode", metavar="M", required=True, help="what is measured: data")
    parser.add_argument("--images", metavar="N", type=positive_int, default=256, help="JPEG files (default 256)")
    parser.add_argument("--rounds", metavar="N", type=positive_int, default=5, help="turns of each (default 5)")
    parser.add_argument("--size", metavar="S", type=positive_int, default=240, help="input size (default 240)")
    parser.add_argument("--batch-size", metavar="B", type=positive_int, default=32, help="of the loaders (default 32)")
    parser.add_argument(
        "--threads", metavar="N", type=positive_int, default=2, help="threads, and torch's processes (default 2)"
    )
    parser.add_argument("--fast", action="store_true", help="measure data.decode=fast, too")
    parser.add_argument(
        "--peer-python", metavar="PATH", help="a Python with torch and timm (default: this one, if it has them)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _data(options: argparse.Namespace) -> dict[str, Any]:
    from crosscale.benchmark.data import Request, default_peer, measure

    if options.batch_size > options.images:
        raise RequestError(f"--batch-size {options.batch_size} is larger than --images {options.images}")
    peer = options.peer_python or default_peer()
    if peer is None:
        note("no torch and timm here, so there is no comparison with them; --peer-python PATH names a Python with both")
    request = Request(
        images=options.images,
        rounds=options.rounds,
        size=options.size,
        batch_size=options.batch_size,
        threads=options.threads,
        peer=peer,
        fast=options.fast,
    )
    with progress("measuring") as report:
        return measure(request, report)


def _print(result: Mapping[str, Any]) -> None:
    from crosscale.benchmark.data import STAGES

    rows = [
        [
            STAGES[row["stage"]],
            row["who"],
            f"{row['per_core']:,.0f}",
            f"{row['low']:,.0f}..{row['high']:,.0f}",
            "" if row["wall"] is None else f"{row['wall']:,.0f}",
        ]
        for stage in STAGES
        for row in result["rows"]
        if row["stage"] == stage
    ]
    columns = ["stage", "who", "images/s per core", "range", "images/s"]
    title = f"{result['images']} JPEGs, {result['mean_bytes'] / 1000:.0f} kB on average, to {result['size']} pixels"
    print_table(columns, rows, right=columns[2:], title=title)
    if result["ratios"]:
        print_table(["ratio", ""], [[key, f"{value:.2f}"] for key, value in result["ratios"].items()], right=[""])
    if result["fast_deviation"]:
        off = result["fast_deviation"]
        print(f"fast pixels differ from exact ones by {off['mean']:.2f} of 255 on average, {off['max']:.0f} at most")
