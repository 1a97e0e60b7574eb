"""`crosscale report`: the page of a run, or of several runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from crosscale.cli.arguments import EXIT_STATUS, Parser
from crosscale.cli.output import note, print_json, progress_bar
from crosscale.errors import RequestError

HELP = """\
Writes one self-contained HTML page: no network, light and dark, printable, usable with a keyboard.

One RUN: report.html in its folder. The recipe, curves of loss, accuracy, learning rate and waiting for data,
accuracy per class, the confusion matrix, the most confident mistakes, attention over a few held-out pictures,
speed and memory, versions, and the command that repeats the run. Training keeps this page up to date by itself;
this command goes through the held-out pictures again with the best weights.

Several RUNs: one page with their curves over each other, what differs in their recipes, and their accuracy
against multiply-accumulates and parameters beside published models. The folder of a cross-validation (crosscale
train --folds) or of a sweep is such a page of its runs."""

EPILOG = f"""\
examples:
  crosscale report runs/digits-1
  crosscale report runs/digits-1 runs/digits-2 --output compared.html

JSON: {{"report": path, "runs": [folders], "left_out": [sentences]}}

{EXIT_STATUS}"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Writes the page and prints its path. Raises RequestError, WorkError."""
    parser = Parser("report", description=HELP, epilog=EPILOG)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders of `crosscale train`")
    parser.add_argument("--output", metavar="FILE", help="the page of several runs (default comparison.html)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse(argv)
    if len(options.runs) == 1 and options.output is not None:
        raise RequestError("--output goes with several runs; the page of one run is report.html in its folder")

    from crosscale.report.write import REPORT, write_comparison, write_report
    from crosscale.runs.folds import fold_folders
    from crosscale.runs.sweep import trial_folders

    left_out: list[str] = []
    folder = Path(options.runs[0]).expanduser()
    if len(options.runs) > 1:
        path = write_comparison(options.runs, Path(options.output or "comparison.html").expanduser())
    elif len(folds := fold_folders(folder)) > 1:
        path = write_comparison(folds, folder / REPORT, spread=True)
    elif len(trials := trial_folders(folder)) > 1:
        path = write_comparison(trials, folder / REPORT)
    else:
        with progress_bar("going through the held-out pictures") as report:
            path, left_out = write_report(options.runs[0], report)
    for sentence in left_out:
        note(f"crosscale report: {sentence}")
    if as_json:
        print_json({"report": str(path), "runs": options.runs, "left_out": left_out})
    else:
        print(path)
    return 0
