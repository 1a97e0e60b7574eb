"""`crosscale calibrate`: how sure a trained model may say it is, and when its answer is "unknown"."""

from collections.abc import Sequence

from crosscale.cli.arguments import EXIT_STATUS, Parser, fraction, share
from crosscale.cli.output import print_json, print_table

HELP = """\
Chooses a temperature on held-out pictures, so that a probability of 0.9 is right nine times out of ten, and keeps it
with the run's best weights: predict, serve, export and the report use it. The most probable class stays the same.

With --precision or --coverage it also chooses the least probability that counts as an answer; below it the answer is
"unknown". Calibrate on pictures that the run did not train on, ideally on some that did not choose the weights either
(--data-dir)."""

EPILOG = f"""\
examples:
  crosscale calibrate --run runs/digits
  crosscale calibrate --run runs/photos --precision 0.99
  crosscale calibrate --run runs/photos --data-dir later-photos --split all --coverage 0.9

JSON: {{"temperature", "loss", "loss_before", "ece", "ece_before", "threshold", "coverage", "precision", "examples",
"data_dir", "split"}}

{EXIT_STATUS}"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Prints what was chosen. Raises RequestError, WorkError."""
    parser = Parser("calibrate", description=HELP, epilog=EPILOG)
    parser.add_argument("--run", metavar="RUN", required=True, help="a run folder of `crosscale train`")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--precision", metavar="P", type=fraction, help="share of the answers that must be right")
    wanted.add_argument("--coverage", metavar="P", type=share, help="answer at least this share of the pictures")
    group = parser.add_argument_group("the data")
    group.add_argument("--data-dir", metavar="D", help="labelled pictures (default: what the run held out)")
    group.add_argument("--root", metavar="R", help="what a table's paths are relative to (default: its folder)")
    group.add_argument("--split", choices=("val", "train", "all"), default="val", help="which part (default val)")
    group.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="a picture that does not decode (default error)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse(argv)
    from crosscale.runs.calibrate import calibrate_run
    from crosscale.runs.validate import HeldOut

    result = calibrate_run(
        options.run,
        HeldOut(options.data_dir, options.split, root=options.root),
        on_bad_image=options.on_bad_image,
        precision=options.precision,
        coverage=options.coverage,
    )
    if as_json:
        print_json(result)
        return 0
    rows = [
        ["temperature", f"{result['temperature']:.4g}"],
        ["loss", f"{result['loss_before']:.4f} to {result['loss']:.4f}"],
        ["calibration error", f"{100 * result['ece_before']:.2f} % to {100 * result['ece']:.2f} %"],
    ]
    if result["threshold"] is not None:
        rows += [
            ["unknown below", f"{result['threshold']:.4f}"],
            ["answered", f"{100 * result['coverage']:.2f} %"],
            ["of these right", f"{100 * result['precision']:.2f} %"],
        ]
    rows.append(["examples", f"{result['examples']:,}"])
    print_table([f"{result['split']} of {result['data_dir']}", ""], rows, right=[""])
    return 0
