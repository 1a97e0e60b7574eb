"""What a run folder says of its run: recipe, metrics, best weights' record, environment. Reads, never writes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosscale.artifact import CONFIG, Artifact, first_of_several, read_artifact
from crosscale.engine.run_folder import BEST, ENVIRONMENT, METRICS, RECIPE, holds_run
from crosscale.errors import RequestError
from crosscale.tasks.registry import DEFAULT, task_kind
from crosscale.tasks.task import Task
from crosscale.typed import read_yaml

Points = list[tuple[float, float]]  # (epoch, value)

_RATE = "images_per_second"
_PART = "loss_"  # before the name of a part of the training loss


@dataclass(frozen=True)
class Curves:
    """A run's numbers over its epochs; points whose value was not finite are left out.

    Attributes:
      loss: training loss, averaged over the steps between two lines of the log, or over an epoch where a log has
        fewer lines than epochs.
      parts: of a training loss of several parts, each of them by name.
      measures: what each validation gave, by name, such as "loss".
      lr: learning rate.
      data_wait: share of the training time that was spent waiting for data.
      rate: training images a second.
      val_rate: validation images a second.
    """

    loss: Points = field(default_factory=list)
    parts: dict[str, Points] = field(default_factory=dict)
    measures: dict[str, Points] = field(default_factory=dict)
    lr: Points = field(default_factory=list)
    data_wait: Points = field(default_factory=list)
    rate: Points = field(default_factory=list)
    val_rate: Points = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Attributes:
      recipe: as the YAML file holds it; empty where there is none.
      best: what `best/` says of its weights; None before the first validation.
      environment: versions, devices, memory and the command, as the training wrote them; may be empty.
      steps: taken according to the metrics.
      extended_epoch: how far it was when it was last extended; 0 where it was not.
      skipped_steps: left out because a number was not finite.
      seconds: that its whole epochs took, validations among them; None where the metrics do not say.
    """

    folder: Path
    name: str
    recipe: dict[str, Any]
    best: Artifact | None
    environment: dict[str, Any]
    curves: Curves
    steps: int
    skipped_steps: int
    seconds: float | None = None
    extended_epoch: float = 0.0

    @property
    def epochs(self) -> float:
        """How far the run has come."""
        ends = [points[-1][0] for points in (self.curves.loss, *self.curves.measures.values()) if points]
        return max(ends, default=0.0)

    @property
    def kind(self) -> type[Task]:
        """What the run learns."""
        name = self.best.task if self.best else (self.recipe.get("task") or {}).get("name", DEFAULT)
        return task_kind(name)

    @property
    def best_measure(self) -> str:
        """The measure that the best weights were chosen by."""
        return (self.recipe.get("validate") or {}).get("best") or self.kind.best

    @property
    def planned_epochs(self) -> int | None:
        """How many epochs were planned; None for a run counted in steps."""
        return self._planned("epochs") if self.planned_steps is None else None

    @property
    def planned_steps(self) -> int | None:
        """How many steps were planned; None for a run counted in epochs."""
        return self._planned("steps")

    def _planned(self, key: str) -> int | None:
        value = self.recipe.get("train", {}).get(key)
        return value if isinstance(value, int) else None

    @property
    def goes_on(self) -> bool:
        """Whether a part of its plan is missing, and not because it stopped getting better."""
        patience = self.recipe.get("train", {}).get("early_stop_epochs")
        if isinstance(patience, int) and self.best_epoch is not None:
            validated = max((points[-1][0] for points in self.curves.measures.values()), default=0.0)
            # It stops at a validation alone, and an extended run is waited for anew.
            if validated == self.epochs and validated - max(self.best_epoch, self.extended_epoch) >= patience:
                return False
        if self.planned_steps is not None:
            return self.steps < self.planned_steps
        return self.planned_epochs is not None and self.epochs < self.planned_epochs

    @property
    def metrics(self) -> dict[str, Any]:
        """The numbers of the best validation: the task's measures, "examples", ..."""
        return dict(self.best.metrics) if self.best is not None else {}

    @property
    def best_epoch(self) -> float | None:
        """The epoch of the best validation; None before the first, or where it is not known."""
        return self.best.epoch if self.best is not None else None


def read_run(path: str | Path) -> Run:
    """Reads a run folder. A torn last line of the metrics is left out: the run may be writing it.

    Raises:
      RequestError: there is no such folder, it holds no run, or a file in it cannot be read.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise RequestError(f"{folder}: no such run folder; give the --output-dir of a training run")
    if not folder.is_dir():
        raise RequestError(f"{folder}: a file, not a run folder; give the --output-dir of a training run")
    if not holds_run(folder):
        raise RequestError(f"{folder}: not a run folder (no {RECIPE}, {METRICS} or {BEST}/)")
    if (several := first_of_several(folder)) is not None and not (folder / METRICS).exists():
        raise RequestError(f"{folder}: holds several runs, not one; name one of them, such as {several}")
    lines = _metric_lines(folder / METRICS)
    config = folder / BEST / CONFIG
    seconds = [value for line in lines if (value := _number(line.get("seconds"))) is not None]
    steps = [int(line["step"]) for line in lines if isinstance(line.get("step"), int)]
    return Run(
        folder=folder,
        name=folder.resolve().name,
        recipe=read_yaml(folder / RECIPE) if (folder / RECIPE).exists() else {},
        best=read_artifact(config) if config.exists() else None,
        environment=_json(folder / ENVIRONMENT),
        curves=_curves(lines),
        steps=max(steps, default=0),
        skipped_steps=sum(line.get("kind") in ("nonfinite", "overflow") for line in lines),
        seconds=sum(seconds) if seconds else None,
        extended_epoch=max(
            (_number(line.get("epoch")) or 0.0 for line in lines if line.get("kind") == "extend"), default=0.0
        ),
    )


def flat_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sections -> "section.key" names; a model's options one by one."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in flat_recipe(value).items()}
        else:
            flat[str(name)] = value
    return flat


def repeat_command(run: Run) -> str:
    """The command that trains the same again, into a folder beside the run's."""
    target = run.folder.with_name(run.folder.name + "-again")
    return f"crosscale train --config {_quoted(run.folder / RECIPE)} --output-dir {_quoted(target)}"


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _metric_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from None
    lines = []
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _curves(lines: list[dict[str, Any]]) -> Curves:
    curves = Curves()
    own: dict[str, dict[str, Points]] = {
        "train": {"loss": curves.loss, "lr": curves.lr, "data_wait": curves.data_wait, _RATE: curves.rate},
        "validate": {_RATE: curves.val_rate},
    }
    kinds = [line.get("kind") for line in lines]
    if kinds.count("train") < kinds.count("epoch"):  # an epoch is shorter than the log's window
        own["train"] |= {"loss": [], "lr": []}
        own["epoch"] = {"train_loss": curves.loss, "lr": curves.lr}
    for line in lines:
        kind, epoch = str(line.get("kind")), _number(line.get("epoch"))
        for name, found in line.items():
            if epoch is None or (value := _number(found)) is None or name in ("kind", "step", "epoch"):
                continue
            if name in own.get(kind, {}):
                own[kind][name].append((epoch, value))
            elif kind == "validate":
                curves.measures.setdefault(name, []).append((epoch, value))
            elif kind == "train" and name.startswith(_PART):
                curves.parts.setdefault(name.removeprefix(_PART), []).append((epoch, value))
    return curves


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as JSON ({error})") from None
    return value if isinstance(value, dict) else {}
