"""`crosscale train`: trains or fine-tunes from a recipe; leaves a complete run folder."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import Parser, add_host_options, add_recipe_options, host_options, recipe_overrides
from crosscale.cli.output import note, print_json
from crosscale.errors import RequestError, WorkError

if TYPE_CHECKING:
    from crosscale.recipe import Recipe
    from crosscale.runs.experiment import Splits

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
  crosscale train --config digits --data-dir photos --train.epochs 20 --optimizer.lr 5e-4
  crosscale train --data-dir photos --model crossvit_9_240 --pretrained weights.safetensors
  crosscale train --config my.yaml --model.options.drop_path_rate 0.1 --dry-run
  crosscale train --output-dir runs/digits-1 --resume

JSON: {"top1", "top5", "loss", ..., "examples", "images_per_second", "steps", "epochs", "best_step", "best_epoch",
"skipped_images", "skipped_steps", "rollbacks", "stopped", "output_dir"}; the first ones up to "examples", which are
those that `crosscale validate` gives, are of the best validation.

exit status:
  0  trained, or stopped by a signal and saved
  1  the work failed (a bad picture, a loss that is not finite, a full disc)
  2  the request was wrong (unknown key, wrong type, missing data, a folder with another run)"""

_SHORT = {"data_dir": "data.dir", "model": "model.name", "pretrained": "model.pretrained"}


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Trains and prints the result. Raises RequestError, WorkError."""
    parsed = _parser(argv).parse(argv)
    start = host_options(parsed)
    from crosscale.cluster.hosts import together

    with together(start):  # before anything touches the devices
        return _run(vars(parsed), argv, as_json=as_json)


def _run(options: dict[str, Any], argv: Sequence[str], *, as_json: bool) -> int:
    recipe, name, splits = _recipe(options)
    if options["dry_run"]:
        return _dry_run(recipe, splits, as_json)
    output_dir = Path(options["output_dir"]) if options["output_dir"] else _next_folder(name)
    from crosscale.cluster.hosts import is_first
    from crosscale.report.write import LiveReport
    from crosscale.runs.train import run_training

    live = LiveReport(output_dir.expanduser().resolve(), ["train", *argv])
    try:
        result = run_training(
            recipe, output_dir, resume=options["resume"], on_epoch=lambda folder: live.refresh(), splits=splits
        )
    except WorkError:
        live.refresh()
        raise
    live.refresh(final=result["stopped"] is None)
    if is_first() and as_json:
        print_json(result)
    elif is_first():
        print(result["output_dir"])
    return 0


def _parser(argv: Sequence[str]) -> Parser:
    from crosscale.recipe import shipped_recipes

    parser = Parser("train", description=HELP, epilog=EPILOG)
    parser.usage = "%(prog)s [--config RECIPE] [--data-dir D] [--output-dir RUN] [--section.key VALUE] ..."
    shipped = ", ".join(shipped_recipes())
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help=f"a YAML file, or a shipped recipe ({shipped}); default: all defaults",
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
    parser.add_argument("--output-dir", metavar="RUN", help="the run folder; default runs/<recipe>-<n>")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN, where there is one")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it would do")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_host_options(parser)
    add_recipe_options(parser, argv)
    return parser


def _recipe(options: dict[str, Any]) -> "tuple[Recipe, str, Splits | None]":
    """The recipe with the command line's overrides, a name for its run, and its data where that had to be opened."""
    from crosscale.engine.run_folder import RECIPE
    from crosscale.recipe import Recipe, load, override

    overrides = recipe_overrides(options)
    for short, key in _SHORT.items():
        if options[short] is None:
            continue
        if key in overrides:
            raise RequestError(f"--{short.replace('_', '-')} and --{key} are the same key; give one of them")
        overrides[key] = options[short]
    if options["resume"]:
        if not options["output_dir"]:
            raise RequestError("--resume needs --output-dir RUN, the run to go on with")
        stored = Path(options["output_dir"]).expanduser() / RECIPE
        if options["config"] is None:
            if not stored.is_file():
                raise RequestError(f"--resume: {stored.parent} holds no run; give --config to begin one there")
            return load(stored, overrides), "", None
    if options["config"] is None and overrides.get("model.pretrained", "false") != "false":
        recipe, splits = _finetuning(overrides)
        return recipe, "finetune", splits
    if options["config"] is None:
        return override(Recipe(), overrides), overrides.get("model.name", Recipe().model.name), None
    return load(options["config"], overrides), Path(options["config"]).stem, None


def _finetuning(given: dict[str, str]) -> "tuple[Recipe, Splits | None]":
    """The recipe "finetune" for the model that the weights are of, at sizes that fit the data, which it opens."""
    import jax

    from crosscale.models.registry import check_name
    from crosscale.pretrained.finetuning import fitting_sizes, model_of, options_text
    from crosscale.recipe import load
    from crosscale.runs.experiment import open_splits

    chosen: dict[str, str] = {}
    if "model.name" not in given and given["model.pretrained"] != "true":
        found = model_of(given["model.pretrained"])
        chosen = {"model.name": found["name"], **options_text(found["options"])}
    recipe = load("finetune", {**chosen, **given})
    check_name(recipe.model.name)
    splits = None if recipe.data.dir is None else open_splits(recipe)
    if splits is not None:
        sizes = fitting_sizes(len(splits[0]), jax.device_count(), recipe.train.batch_size)
        chosen |= {f"train.{name}": str(value) for name, value in sizes.items()}
    recipe = load("finetune", {**chosen, **given})
    train, optimizer = recipe.train, recipe.optimizer
    note(
        f"fine-tuning {recipe.model.name} with the recipe 'finetune': {train.epochs} epochs, batch {train.batch_size}, "
        f"{optimizer.name} at {optimizer.lr:g} per {optimizer.lr_base_batch} images, layer decay "
        f"{optimizer.layer_decay}, weight decay {optimizer.weight_decay}; recipe.yaml in the run folder has the rest"
    )
    return recipe, splits


def _dry_run(recipe: "Recipe", splits: "Splits | None", as_json: bool) -> int:
    from crosscale.recipe import dump
    from crosscale.runs.experiment import build, describe, estimate_memory

    experiment = build(recipe, without_data=True, splits=splits)
    facts = {**describe(experiment), "memory": estimate_memory(experiment)}
    if as_json:
        print_json(facts)
        return 0
    print(dump(experiment.recipe), end="")
    note(_plan(facts, f"{len(experiment.task.labels)} {experiment.task.noun}"))
    return 0


def _plan(facts: dict[str, Any], outputs: str) -> str:
    rates = ", ".join(f"step {step}: {rate:.3g}" for step, rate in facts["learning_rate"].items())
    memory = facts["memory"]
    parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in memory.items() if size)
    return (
        f"{facts['model']}: {facts['parameters']:,} parameters, input {facts['input']}, "
        f"{outputs}\n"
        f"{facts['train_images']} images to train on, {facts['val_images']} held out\n"
        f"{facts['epochs']} epochs of {facts['steps_per_epoch']} steps: {facts['steps']} steps, "
        f"{facts['samples']:,} samples on {facts['devices']} device(s)\n"
        f"learning rate: {rates}\n"
        f"learning rate: {_sparkline(facts['curve'])}\n"
        f"memory per device, about: {sum(memory.values()) / 2**30:,.2f} GiB (MiB: {parts})"
    )


def _sparkline(values: Sequence[float]) -> str:
    """One character per value, from the least to the largest."""
    low, high = min(values), max(values)
    levels = "▁▂▃▄▅▆▇█"
    return "".join(levels[round((value - low) / ((high - low) or 1.0) * (len(levels) - 1))] for value in values)


def _next_folder(name: str) -> Path:
    """runs/<name>-<n>, with the first n for which there is nothing yet."""
    return next(path for n in count(1) if not (path := Path("runs") / f"{name}-{n}").exists())
