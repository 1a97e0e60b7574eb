"""`crosscale train`: trains or fine-tunes from a recipe; leaves a complete run folder."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import Parser, add_host_options, add_recipe_options, host_options, recipe_overrides
from crosscale.cli.output import note, print_json
from crosscale.errors import GivenUpError, RequestError, WorkError

if TYPE_CHECKING:
    from crosscale.recipe import Recipe
    from crosscale.runs.experiment import Splits
    from crosscale.runs.starting import Start

HELP = """\
Trains a model from a recipe, or fine-tunes one from weights, and leaves a complete run folder.

A recipe is a YAML file with the sections below; every key can be given on the command line as
--section.key VALUE (lists as '[0.9, 0.95]', nothing as null), and any constructor field of the model as
--model.options.FIELD VALUE. The run folder holds recipe.yaml (everything resolved), metrics.jsonl,
tensorboard/, checkpoints/, log.txt, report.html (kept up to date) and best/ (the weights of the best
validation, loadable alone).

Ctrl-C or SIGTERM ends the run after its step, saves it and says how to go on."""

EPILOG = """\
examples:
  crosscale train --config digits
  crosscale train --data-dir photos
  crosscale train --config digits --data-dir photos --train.epochs 20 --optimizer.lr 5e-4
  crosscale train --data-dir photos --model crossvit_9_240 --pretrained weights.safetensors
  crosscale train --config my.yaml --model.options.drop_path_rate 0.1 --dry-run
  crosscale train --output-dir runs/digits-1 --resume
  crosscale train --output-dir runs/digits-1 --resume --extend 10
  crosscale train --data-dir scans.csv --folds 5 --folds-by patient

JSON: {"top1", "top5", "loss", ..., "examples", "images_per_second", "seconds", "steps", "epochs", "best_step",
"best_epoch", "skipped_images", "skipped_steps", "rollbacks", "stopped", "output_dir"}; the first ones up to "examples",
which are those that `crosscale validate` gives, are of the best validation. With --folds: {"folds" (one such object
each), "mean", "deviation", "stopped", "output_dir", "report"}.

exit status:
  0  trained, or stopped by a signal and saved
  1  the work failed (a bad picture, a loss that is not finite, a full disc)
  2  the request was wrong (unknown key, wrong type, missing data, a folder with another run)"""

_SHORT = {"data_dir": "data.dir", "model": "model.name", "pretrained": "model.pretrained"}
_SHORT |= {"folds": "data.folds", "folds_by": "data.folds_by"}


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Trains and prints the result. Raises RequestError, WorkError."""
    parsed = _parser(argv).parse(argv)
    start = host_options(parsed)
    from crosscale.cluster.hosts import together

    with together(start):  # before anything touches the devices
        return _run(vars(parsed), argv, as_json=as_json)


def _run(options: dict[str, Any], argv: Sequence[str], *, as_json: bool) -> int:
    recipe, name, splits = chosen_recipe(options)
    if options["dry_run"]:
        return _dry_run(recipe, splits, as_json)
    with _output_dir(options["output_dir"], name) as output_dir:
        if recipe.data.folds is not None and recipe.data.fold is None:
            from crosscale.cli.folds import train_folds

            return train_folds(recipe, output_dir, options, argv, as_json=as_json)
        from crosscale.cluster.hosts import is_first

        how = {name: options[name] for name in ("resume", "extend")}
        result = train_one(recipe, output_dir, ["train", *argv], splits=splits, **how)
        if is_first() and as_json:
            print_json(result)
        elif is_first():
            if result["stopped"] is None:
                note(_next(result["output_dir"]))
            print(result["output_dir"])
        return 0


def _next(folder: str) -> str:
    """What to do with a run that is done: its page, and three commands."""
    from crosscale.artifact import find_best

    lines = [f"The run's page: {Path(folder) / 'report.html'}"]
    if find_best(Path(folder)) is not None:  # a run without a validation keeps no weights there
        run = shlex.quote(folder)
        lines += [
            "Next:",
            f"  crosscale predict --run {run} photo.jpg",
            f"  crosscale explain --run {run} photo.jpg --output attention",
            f"  crosscale serve --run {run}",
        ]
    return "\n".join(lines)


def train_one(
    recipe: "Recipe",
    output_dir: Path,
    command: Sequence[str],
    *,
    on_epoch: Callable[[], None] = lambda: None,
    **how: Any,
) -> dict[str, Any]:
    """Trains one run, with a page that is kept up to date.

    Args:
      command: its words, for the page.
      on_epoch: called after every epoch, with the page written; raises GivenUpError to end the run.
      **how: see `run_training`.

    Returns:
      What `run_training` does.

    Raises GivenUpError, RequestError, WorkError.
    """
    from crosscale.engine.run_folder import holds_run
    from crosscale.report.write import LiveReport
    from crosscale.runs.train import run_training

    live = LiveReport(output_dir.expanduser().resolve(), command)

    def after_epoch(_: Path) -> None:
        live.refresh()
        on_epoch()

    try:
        result = run_training(recipe, output_dir, on_epoch=after_epoch, **how)
    except (GivenUpError, WorkError) as error:
        if holds_run(output_dir.expanduser()):  # a start that failed has left nothing
            live.refresh(ended=str(error) if isinstance(error, GivenUpError) else f"ended by an error: {error}")
        raise
    if result["stopped"] is None:
        live.refresh(final=True)
    else:
        live.refresh(ended=f"stopped by {result['stopped']}")
    return result


@contextmanager
def _output_dir(given: str | None, name: str) -> Iterator[Path]:
    """The folder that was given, or runs/<name>-<n>, which is removed again if nothing began in it."""
    from crosscale.cluster.hosts import is_first

    if given:
        yield Path(given)
        return
    folder = _next_folder(name) if is_first() else Path("runs")  # all use the first process's folder
    try:
        yield folder
    finally:
        with suppress(OSError):  # only a start that failed leaves it empty
            folder.rmdir()
            folder.parent.rmdir()


def _next_folder(name: str) -> Path:
    """runs/<name>-<n>, with the first n that is free; it is made, so that nobody else takes it."""
    from crosscale.engine.run_folder import claim_next

    return claim_next(Path("runs"), name)


def add_recipe_choice(parser: Parser) -> None:
    """Adds the short ways to say what is trained on what: see `chosen_recipe`."""
    from crosscale.recipe import shipped_recipes

    shipped = ", ".join(shipped_recipes())
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help=f"a YAML file, or a shipped recipe ({shipped}); default: photos, or with --pretrained finetune, fitted "
        "to the data",
    )
    parser.add_argument("--data-dir", metavar="D", help="a folder of images, a table, or digits (--data.dir)")
    parser.add_argument("--model", metavar="M", help="a preset or family (--model.name)")
    parser.add_argument(
        "--pretrained",
        metavar="FILE",
        nargs="?",
        const="true",
        help="start from a weight file; without FILE, the preset's published weights (--model.pretrained)",
    )


def _parser(argv: Sequence[str]) -> Parser:
    parser = Parser("train", description=HELP, epilog=EPILOG)
    parser.usage = "%(prog)s [--config RECIPE] [--data-dir D] [--output-dir RUN] [--section.key VALUE] ..."
    add_recipe_choice(parser)
    parser.add_argument("--output-dir", metavar="RUN", help="the run folder; default runs/<recipe>-<n>")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN, where there is one")
    parser.add_argument(
        "--extend",
        metavar="N",
        type=int,
        default=0,
        help="with --resume: train N epochs more than the run was begun with; the learning rate follows the longer "
        "run, and the patience of train.early_stop_epochs begins anew",
    )
    parser.add_argument(
        "--folds",
        metavar="N",
        help="cross-validation: a run for each of N folds in RUN/fold-1, ..., their mean and one page (--data.folds)",
    )
    parser.add_argument(
        "--folds-by",
        metavar="COLUMN",
        help="with --folds: pictures with the same value in this column of the table share a fold (--data.folds_by)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it would do")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_host_options(parser)
    add_recipe_options(parser, argv)
    return parser


def chosen_recipe(options: dict[str, Any]) -> "tuple[Recipe, str, Splits | None]":
    """The recipe with the command line's overrides, a name for its run, and its data where that had to be opened.

    Raises RequestError.
    """
    from crosscale.runs.partners import check_given

    overrides = recipe_overrides(options)
    chosen = _chosen(options, overrides)
    check_given(chosen[0], overrides)
    return chosen


def _chosen(options: dict[str, Any], overrides: dict[str, str]) -> "tuple[Recipe, str, Splits | None]":
    from crosscale.engine.run_folder import RECIPE
    from crosscale.recipe import Recipe, load, override
    from crosscale.runs.sweep import PLAN

    for short, key in _SHORT.items():
        if options.get(short) is None:
            continue
        if key in overrides:
            raise RequestError(f"--{short.replace('_', '-')} and --{key} are the same key; give one of them")
        overrides[key] = options[short]
    extend = options.get("extend", 0)
    if extend < 0 or (extend and not options["resume"]):
        raise RequestError("--extend N goes with --resume, and N is how many epochs more")
    if options["resume"]:
        if not options["output_dir"]:
            raise RequestError("--resume needs --output-dir RUN, the run to go on with")
        stored = Path(options["output_dir"]).expanduser() / RECIPE
        if (stored.parent / PLAN).is_file():
            raise RequestError(
                f"--resume: {stored.parent} holds a sweep; to go on: "
                f"crosscale sweep --output-dir {stored.parent} --resume"
            )
        if options["config"] is None:
            if not stored.is_file():
                raise RequestError(f"--resume: {stored.parent} holds no run; give --config to begin one there")
            return load(stored, overrides), "", None
    if options["config"] is None:
        start = _start(overrides)
        if start is not None:
            for line in start.lines:
                note(line)
            return start.recipe, start.name, start.splits
        return override(Recipe(), overrides), overrides.get("model.name", Recipe().model.name), None
    return load(options["config"], overrides), Path(options["config"]).stem, None


def _start(given: dict[str, str]) -> "Start | None":
    """The recipe that fits the weights or the data, where one of them was given."""
    if given.get("model.pretrained", "false") != "false":
        from crosscale.runs.starting import from_weights

        return from_weights(given)
    if given.get("data.dir", "null") != "null":
        from crosscale.runs.starting import from_data

        return from_data(given)
    return None


def _dry_run(recipe: "Recipe", splits: "Splits | None", as_json: bool) -> int:
    from crosscale.recipe import dump
    from crosscale.runs.batch_size import with_batch_size
    from crosscale.runs.device_memory import estimate_memory
    from crosscale.runs.experiment import build, describe
    from crosscale.runs.host_memory import estimate_host_memory
    from crosscale.runs.partners import check_partners, check_validated

    check_partners(recipe)
    recipe, splits = with_batch_size(recipe, splits, without_data=True)
    experiment = build(recipe, without_data=True, splits=splits)
    check_validated(experiment)
    memory = estimate_memory(experiment)
    facts = {**describe(experiment), "memory": memory, "host_memory": estimate_host_memory(experiment, memory)}
    if as_json:
        print_json(facts)
        return 0
    print(dump(experiment.recipe), end="")
    note(_plan(facts, f"{len(experiment.task.labels)} {experiment.task.noun}"))
    if host := facts["host_memory"]:
        note(f"memory of this machine, about: {_sizes(host)}")
    return 0


def _plan(facts: dict[str, Any], outputs: str) -> str:
    rates = ", ".join(f"step {step}: {rate:.3g}" for step, rate in facts["learning_rate"].items())
    return (
        f"{facts['model']}: {facts['parameters']:,} parameters, input {facts['input']}, "
        f"{outputs}\n"
        f"{facts['train_images']} images to train on, {facts['val_images']} held out\n"
        f"{facts['epochs']} epochs of {facts['steps_per_epoch']} steps: {facts['steps']} steps, "
        f"{facts['samples']:,} samples on {facts['devices']} device(s)\n"
        f"learning rate: {rates}\n"
        f"learning rate: {_sparkline(facts['curve'])}\n"
        f"memory per device, about: {_sizes(facts['memory'])}"
    )


def _sizes(memory: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in memory.items() if size)
    return f"{sum(memory.values()) / 2**30:,.2f} GiB (MiB: {parts})"


def _sparkline(values: Sequence[float]) -> str:
    """One character per value, from the least to the largest."""
    low, high = min(values), max(values)
    levels = "▁▂▃▄▅▆▇█"
    return "".join(levels[round((value - low) / ((high - low) or 1.0) * (len(levels) - 1))] for value in values)
