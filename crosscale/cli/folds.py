"""`crosscale train --folds N`: a run for each fold, their mean, and one page that compares them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.output import note, print_json, print_table
from crosscale.errors import RequestError, WorkError

if TYPE_CHECKING:
    from crosscale.recipe import Recipe


def train_folds(
    recipe: "Recipe", output_dir: Path, options: dict[str, Any], argv: Sequence[str], *, as_json: bool
) -> int:
    """Trains every fold and prints mean and deviation. Raises RequestError, WorkError."""
    from crosscale.cli.train import train_one
    from crosscale.cluster.hosts import is_first
    from crosscale.runs.folds import fold_folders, run_folds

    if options["extend"]:
        raise RequestError("--extend goes with one run, not with --folds; extend a fold's own folder")

    def train(own: "Recipe", folder: Path, resume: bool) -> dict[str, Any]:
        return train_one(own, folder, ["train", *argv], resume=resume)

    result = run_folds(recipe, output_dir, resume=options["resume"], train=train)
    result["report"] = None
    if not is_first():
        return 0
    if len(result["folds"]) > 1:
        folder = Path(result["output_dir"])
        result["report"] = comparing_page(fold_folders(folder), folder, spread=True)
    if as_json:
        print_json(result)
        return 0
    _print(result, recipe)
    if result["stopped"] is not None:
        note(
            f"stopped by {result['stopped']} with {len(result['folds'])} of {recipe.data.folds} folds done; to go on: "
            f"crosscale train --output-dir {result['output_dir']} --resume"
        )
    print(result["output_dir"])
    return 0


def comparing_page(runs: Sequence[Path], folder: Path, *, spread: bool = False) -> str | None:
    """Writes the page that compares runs into the folder that holds them; None, with a line, where that fails.

    Args:
      spread: see `write_comparison`.
    """
    from crosscale.report.write import REPORT, write_comparison

    try:
        return str(write_comparison(runs, folder / REPORT, spread=spread))
    except (RequestError, WorkError) as error:  # the runs themselves are complete
        note(f"the comparing page was not written: {error}")
        return None


def _print(result: dict[str, Any], recipe: "Recipe") -> None:
    """A row for each fold, and their mean and deviation, of the measures that were measured."""
    from crosscale.tasks.registry import task_kind

    measures = {
        name: measure
        for name, measure in task_kind(recipe.task.name).measures.items()
        if result["mean"].get(name) is not None
    }
    rows = [
        [f"fold {number}", *(measure.shown(found.get(name)) for name, measure in measures.items())]
        for number, found in enumerate(result["folds"], 1)
    ]
    for name in ("mean", "deviation"):
        rows.append([name, *(measure.shown(result[name].get(key)) for key, measure in measures.items())])
    labels = [measure.label_with_unit for measure in measures.values()]
    if result["folds"]:
        print_table(["", *labels], rows, right=labels)
