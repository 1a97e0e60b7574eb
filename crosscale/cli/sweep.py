"""`crosscale sweep`: runs over ranges of recipe keys, proposed by Optuna; the best is a command."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import Parser, add_recipe_options, positive_int
from crosscale.cli.folds import comparing_page
from crosscale.cli.output import note, print_json, print_table
from crosscale.cli.train import add_recipe_choice, chosen_recipe, train_one
from crosscale.errors import RequestError, WorkError

if TYPE_CHECKING:
    from crosscale.recipe import Recipe
    from crosscale.runs.search import Searched

HELP = """\
Trains many runs, each with other values of some recipe keys, and says which was best. Optuna proposes the values, from
what it has seen of the runs before, and ends runs early that fall behind the others.

--over names a key and what to try: KEY=LOW..HIGH, KEY=LOW..HIGH:log (evenly in its logarithm), or KEY=[A, B, ...];
it can be given several times. All else is as for crosscale train. The runs are trial-1, trial-2, ... in the sweep's
folder, each like any other; --resume goes on with a sweep that was stopped, from the checkpoint of the run under
way."""

EPILOG = """\
examples:
  crosscale sweep --config digits --over optimizer.lr=1e-4..1e-2:log --trials 20 --output-dir sweeps/digits
  crosscale sweep --data-dir photos --over 'optimizer.name=[adamw, lamb]' --output-dir sweeps/photos
  crosscale sweep --resume --output-dir sweeps/digits --trials 40

JSON: {"trials": [{"number", "state" (complete, pruned, fail), "params", "value", "run", "error"}], "best" (one of
them, or null), "measure", "command", "stopped", "output_dir", "report"}

exit status:
  0  done, or stopped by a signal and saved
  1  the work failed: no run came to its end
  2  the request was wrong (unknown key, a range that cannot be, missing data, a folder with other runs)"""

TRIALS = 20


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Trains and prints the trials and the best one's command. Raises RequestError, WorkError."""
    options = vars(_parser(argv).parse(argv))
    from crosscale.runs.sweep import check_optuna, run_sweep

    check_optuna()
    folder = Path(options["output_dir"] or "").expanduser()
    if not options["output_dir"]:
        raise RequestError("--output-dir SWEEP is missing: the folder of the sweep and its runs")
    recipe, searched, trials, pruner = _plan(options, folder)
    result = run_sweep(
        recipe,
        searched,
        folder,
        trials=trials,
        pruner=pruner,
        resume=options["resume"],
        train=lambda own, place, again, after_epoch: train_one(
            own, place, ["sweep", *argv], resume=again, on_epoch=after_epoch
        ),
    )
    result["command"] = None if result["best"] is None else _command(Path(result["output_dir"]), result["best"])
    result["report"] = _compare(result)
    if as_json:
        print_json(result)
    else:
        _print(result, [item.key for item in searched])
    if result["stopped"] is not None:
        done = f"{len(result['trials'])} of {trials} trials done"
        note(f"stopped by {result['stopped']} with {done}; to go on: crosscale sweep --output-dir {folder} --resume")
    elif result["best"] is None:
        raise WorkError(f"{folder}: no run came to its end; the log.txt of each says why")
    return 0


def _parser(argv: Sequence[str]) -> Parser:
    parser = Parser("sweep", description=HELP, epilog=EPILOG)
    parser.usage = "%(prog)s --over KEY=LOW..HIGH ... --output-dir SWEEP [--config RECIPE] [--section.key VALUE] ..."
    parser.add_argument(
        "--over", metavar="KEY=VALUES", action="append", default=[], help="a recipe key and what to try; several times"
    )
    parser.add_argument("--trials", metavar="N", type=positive_int, help=f"runs in all (default {TRIALS})")
    parser.add_argument(
        "--pruner",
        choices=("median", "hyperband", "none"),
        help="which runs end early: those below the median of the others (default), by Hyperband, or none",
    )
    add_recipe_choice(parser)
    parser.add_argument("--output-dir", metavar="SWEEP", help="the folder of the sweep")
    parser.add_argument("--resume", action="store_true", help="go on with the sweep in SWEEP")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_recipe_options(parser, argv, explained=False)
    return parser


def _plan(options: dict[str, Any], folder: Path) -> "tuple[Recipe, list[Searched], int, Any]":
    """The recipe, what is searched, how many trials, and the pruner: as given, or as the resumed sweep has them."""
    from crosscale.runs.search import parse_search
    from crosscale.runs.sweep import read_plan

    if options["resume"]:
        given = [name for name in ("config", "data_dir", "model", "pretrained", "over") if options[name]]
        given += [key for key in options if "." in key]
        if given:
            name = given[0].replace("_", "-")
            raise RequestError(f"--resume goes on with the sweep as it was begun; leave --{name} out")
        recipe, searched, trials, pruner = read_plan(folder)
        return recipe, searched, options["trials"] or trials, options["pruner"] or pruner
    if not options["over"]:
        raise RequestError("--over KEY=LOW..HIGH is missing: what the runs differ in")
    recipe, _, _ = chosen_recipe(options)
    searched = [parse_search(text) for text in options["over"]]
    return recipe, searched, options["trials"] or TRIALS, options["pruner"] or "median"


def _command(folder: Path, best: dict[str, Any]) -> str:
    """What trains the best trial's recipe again."""
    from crosscale.engine.run_folder import RECIPE
    from crosscale.runs.search import overrides

    words = ["crosscale", "train", "--config", str(folder / RECIPE)]
    for key, value in overrides(best["params"]).items():
        words += [f"--{key}", value]
    return shlex.join(words)


def _compare(result: dict[str, Any]) -> str | None:
    """The page of the runs that were validated, where there are two or more."""
    from crosscale.runs.sweep import trial_folders

    folder = Path(result["output_dir"])
    runs = trial_folders(folder)
    return comparing_page(runs, folder) if len(runs) > 1 else None


def _print(result: dict[str, Any], keys: Sequence[str]) -> None:
    columns = ["run", *keys, result["measure"], ""]
    rows = []
    for trial in result["trials"]:
        value = "" if trial["value"] is None else f"{trial['value']:.5g}"
        said = (
            "best"
            if trial is result["best"]
            else trial["error"] or ("" if trial["state"] == "complete" else trial["state"])
        )
        rows.append([trial["run"] or "", *(_short(trial["params"].get(key)) for key in keys), value, said])
    print_table(columns, rows, right=[*keys, result["measure"]])
    if result["report"]:
        print(result["report"])
    if result["command"]:
        print(result["command"])


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
