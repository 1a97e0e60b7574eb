"""A sweep: Optuna proposes values of recipe keys, each proposal is a run like any other, and bad ones end early."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crosscale.artifact import find_best
from crosscale.engine.run_folder import METRICS, RECIPE, holds_run, started, write_text
from crosscale.errors import GivenUpError, RequestError, WorkError
from crosscale.recipe import Recipe, dump, load, override
from crosscale.runs.places import with_data_paths
from crosscale.runs.search import Searched, check_search, distributions, overrides, parse_search
from crosscale.runs.train import run_training
from crosscale.runtime import is_installed, tell
from crosscale.tasks.measure import check_best, score
from crosscale.tasks.registry import task_kind

if TYPE_CHECKING:
    import optuna

PLAN, STUDY = "sweep.json", "study.journal"
Pruner = Literal["median", "hyperband", "none"]
# (recipe, folder, whether a run there goes on, what to call after each epoch) -> as `run_training`
Train = Callable[[Recipe, Path, bool, Callable[[], None]], dict[str, Any]]


def _train(recipe: Recipe, folder: Path, resume: bool, on_epoch: Callable[[], None]) -> dict[str, Any]:
    return run_training(recipe, folder, resume=resume, on_epoch=lambda _: on_epoch())


def check_optuna() -> None:
    """Raises RequestError where Optuna is not installed."""
    if not is_installed("optuna"):
        raise RequestError("a sweep needs Optuna, which is not installed: pip install 'crosscale[sweep]'")


def read_plan(folder: Path) -> tuple[Recipe, list[Searched], int, Pruner]:
    """What the sweep in a folder was begun with: the recipe, the keys, the number of trials, the pruner.

    Raises RequestError.
    """
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        searched = [parse_search(text) for text in plan["over"]]
        return load(folder / RECIPE), searched, int(plan["trials"]), plan["pruner"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(f"--resume: {folder} holds no sweep; give --over to begin one there") from None


def trial_folders(folder: Path) -> list[Path]:
    """The folders of the validated runs in a folder that `run_sweep` trained into; none for any other."""
    if not (folder / PLAN).is_file():
        return []
    numbered = {int(number): path for path in folder.glob("trial-*") if (number := path.name[6:]).isdigit()}
    return [numbered[number] for number in sorted(numbered) if find_best(numbered[number]) is not None]


def run_sweep(
    recipe: Recipe,
    searched: Sequence[Searched],
    output_dir: Path,
    *,
    trials: int,
    pruner: Pruner = "median",
    resume: bool = False,
    train: Train = _train,
) -> dict[str, Any]:
    """Trains `trials` runs into trial-1, trial-2, ... of `output_dir`; Optuna's study lies there too.

    A run that fails counts as a trial; a sweep that goes on (`resume`) keeps what is done and takes up the run that was
    under way.

    Args:
      searched: keys of the recipe, and what to try.
      pruner: which runs Optuna ends early, after a validation: those below the median of the others, by Hyperband, or
        none.
      train: trains one of them.

    Returns:
      "trials" (each with "number", "state", "params", "value", "run" and "error"), "best" (one of them, or None),
      "measure", "stopped" (a signal's name or None) and "output_dir".

    Raises:
      RequestError: the recipe or the keys cannot be run, or the folder holds something else.
    """
    check_optuna()
    if recipe.data.folds is not None:
        raise RequestError("data.folds: a trial of a sweep is one run; cross-validate its best with crosscale train")
    check_search(recipe, searched)
    folder = output_dir.expanduser().resolve()
    if not resume and holds_run(folder):
        raise RequestError(
            f"{folder}: already holds runs; --resume goes on with a sweep, or choose another --output-dir"
        )
    kind = task_kind(recipe.task.name)
    measure = check_best(recipe.validate.best, kind.measures, kind.best)
    with started(folder, lambda: any(map(holds_run, folder.glob("trial-*")))):
        plan = {"over": [item.text for item in searched], "trials": trials, "pruner": pruner}
        write_text(folder / RECIPE, dump(with_data_paths(recipe)))
        write_text(folder / PLAN, json.dumps(plan))
        study = _open_study(folder, recipe.train.seed, pruner)
        sweep = _Sweep(study, recipe, folder, measure, train)
        sweep.take_up()
        stopped = None
        while stopped is None and len(sweep.ended()) < trials:
            stopped = sweep.take_one(searched)
    found = [_described(trial, kind.measures[measure].higher_is_better) for trial in sweep.ended()]
    complete = [trial for trial in found if trial["state"] == "complete"]
    better = max if kind.measures[measure].higher_is_better else min
    best = better(complete, key=lambda trial: trial["value"]) if complete else None
    return {"trials": found, "best": best, "measure": measure, "stopped": stopped, "output_dir": str(folder)}


class _Sweep:
    """A study and the runs of its trials."""

    def __init__(self, study: "optuna.Study", recipe: Recipe, folder: Path, measure: str, train: Train) -> None:
        self._study, self._recipe, self._folder = study, recipe, folder
        self._measure, self._train = measure, train

    def ended(self) -> "list[optuna.trial.FrozenTrial]":
        """The trials that are over, except those that a later one took up."""
        over = (trial for trial in self._study.get_trials() if trial.state.is_finished())
        return [trial for trial in over if trial.state.name != "FAIL" or "error" in trial.user_attrs]

    def take_up(self) -> None:
        """Queues the trials that were under way when the sweep ended, before all others and in the same folders."""
        for trial in self._study.get_trials():
            if trial.state.name != "RUNNING":
                continue
            self._study.tell(trial.number, state=_state("FAIL"))
            if trial.params:
                self._study.enqueue_trial(trial.params, user_attrs={"run": trial.user_attrs.get("run")})

    def take_one(self, searched: Sequence[Searched]) -> str | None:
        """Trains the next trial; returns the name of the signal that stopped it, or None."""
        trial = self._study.ask(distributions(searched))
        given = overrides(trial.params)
        name = trial.user_attrs.get("run") or f"trial-{len(self.ended()) + 1}"
        trial.set_user_attr("run", name)
        place = self._folder / name
        tell(f"{name}: " + ", ".join(f"{key} {value}" for key, value in given.items()))
        try:
            recipe = override(self._recipe, given)
            result = self._train(recipe, place, holds_run(place), lambda: self._report(trial, place))
        except GivenUpError:
            tell(f"{name}: ended early, as worse than the others at that point")
            self._study.tell(trial, state=_state("PRUNED"))
        except (RequestError, WorkError) as error:
            first = not self.ended()
            trial.set_user_attr("error", str(error))
            self._study.tell(trial, state=_state("FAIL"))
            if first and isinstance(error, RequestError):  # so will all the others
                raise
            tell(f"{name}: failed: {error}")
        else:
            if result["stopped"] is not None:
                return str(result["stopped"])
            value = self._signed(result)
            if value is None:
                trial.set_user_attr("error", "no validation")
            self._study.tell(trial, value, state=_state("FAIL") if value is None else None)
        return None

    def _report(self, trial: "optuna.Trial", place: Path) -> None:
        """Tells Optuna of the validations so far. Raises GivenUpError where it gives the run up."""
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for line in (place / METRICS).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["kind"] == "validate" and record["step"] not in known:
                value = self._signed(record)
                if value is not None:
                    trial.report(value, record["step"])
        if trial.should_prune():
            raise GivenUpError("given up by Optuna's pruner")

    def _signed(self, metrics: dict[str, Any]) -> float | None:
        """What Optuna maximises; None where there is no such number."""
        if metrics.get(self._measure) is None:
            return None
        kind = task_kind(self._recipe.task.name)
        measures = {self._measure: kind.measures[self._measure]}
        return score(metrics, measures, self._measure)[0]


def _open_study(folder: Path, seed: int, pruner: Pruner) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {
        "median": optuna.pruners.MedianPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "none": optuna.pruners.NopPruner,
    }
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY))),
        study_name="sweep",
        direction="maximize",
        pruner=kinds[pruner](),
        load_if_exists=True,
    )
    # With the same seed a sweep that goes on would draw what it has drawn before.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials()))
    return study


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _described(trial: "optuna.trial.FrozenTrial", higher_is_better: bool | None) -> dict[str, Any]:
    value = trial.value
    if trial.state.name == "PRUNED" and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    if value is not None and not higher_is_better:
        value = -value
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "params": dict(trial.params),
        "value": value,
        "run": trial.user_attrs.get("run"),
        "error": trial.user_attrs.get("error"),
    }
