"""One or several numbers per picture: mean-squared, mean-absolute or Huber loss, on standardised targets.

The model's head gives numbers in the data's own units (`models/heads/regression.py`), so that prediction, export and
the service need no statistics; the loss divides by the standard deviations again, so that every target counts alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crosscale.contracts import Array, InputSpec, Source
from crosscale.data.augment import Augment
from crosscale.data.examples import ImageExamples, Target
from crosscale.data.mix import erase, mix_targets
from crosscale.data.table import TableSource, open_table
from crosscale.data.table_rows import RECOGNISED, TableColumns
from crosscale.errors import RequestError
from crosscale.models.heads.regression import RegressionHead
from crosscale.ranges import POSITIVE, check_ranges
from crosscale.tasks.checks import check_labels
from crosscale.tasks.defaults import PlainResult, PlainTask
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch, Metric, State
from crosscale.tasks.sections import Chart, Examined, Gallery, Histogram, Picture, Scatter, Section, Table
from crosscale.tasks.task import CaptionLine, DeclaredData, Losses, Split

TARGETS = "values"  # name of the targets' array in a batch
BARS = 31  # of a histogram of errors
WORST = 24  # pictures

Loss = Literal["mse", "mae", "huber"]


@dataclass(frozen=True)
class RegressionOptions:
    """One or several numbers per picture."""

    name: Literal["regression"] = "regression"
    """What is learnt."""
    targets: tuple[str, ...] = ()
    """Columns of the table to learn, without their units; empty for all but the path and the split."""
    path_column: str | None = None
    """The table's column of paths; null is the first of path, image, file, filename."""
    split_column: str | None = None
    """The table's column that says train or val; null is "split", where there is one."""
    weight_column: str | None = None
    """The table's column of how much each picture counts in training; null counts all alike."""
    loss: Loss = "mse"
    """Mean squared error, mean absolute error, or Huber's: squared near zero, absolute beyond huber_delta."""
    huber_delta: Annotated[float, POSITIVE] = 1.0
    """Where Huber's loss turns from squared to absolute, in standard deviations of the target."""

    def __post_init__(self) -> None:
        check_ranges("task", self)

    @property
    def table(self) -> TableColumns:
        """The columns by what they are."""
        return TableColumns(self.path_column, self.split_column, self.weight_column)


@dataclass(frozen=True)
class Estimate(PlainResult):
    """What the model says of one picture.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      names: of the numbers.
      values: theirs, in `units`; empty where there is an error.
      error: one line on why the picture could not be used; None where it could.
    """

    source: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    units: tuple[str, ...]
    error: str | None = None

    def json(self) -> dict[str, Any]:
        """ "source", "values" by name, "units" by name, and "error"."""
        values = dict(zip(self.names, self.values, strict=True)) if self.values else {}
        units = dict(zip(self.names, self.units, strict=True))
        return {"source": self.source, "values": values, "units": units, "error": self.error}

    def rows(self) -> list[tuple[str, ...]]:
        """A line per number, with its unit."""
        return [(line.text, line.value) for line in self.caption()]

    def caption(self) -> list[CaptionLine]:
        """A line per number, with its unit."""
        found = zip(self.names, self.values, self.units, strict=True) if self.values else ()
        return [CaptionLine(name, with_unit(value, unit)) for name, value, unit in found]


@dataclass(frozen=True)
class Regression(PlainTask):
    """One or several numbers per picture.

    Attributes:
      labels: the numbers' names.
      units: theirs, "" for none.
      mean: of each over the training data.
      std: their standard deviations there.
      kind: of loss.
      huber_delta: in standard deviations.
      augmentation: supplies random erasing, mixup and CutMix, which mixes the numbers too.
      table: the columns of the table.
      notes: lines on how the data was read.
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Loss = "mse"
    huber_delta: float = 1.0
    augmentation: Augment = field(default_factory=Augment.none)
    table: TableColumns = RECOGNISED
    notes: tuple[str, ...] = ()

    name: ClassVar[str] = "regression"
    Options: ClassVar[type] = RegressionOptions
    has_logits: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("quantity", "value")
    numeric: ClassVar[tuple[str, ...]] = ("value",)
    activation: ClassVar[str] = "values"
    noun: ClassVar[str] = "quantities"
    result_options: ClassVar[Mapping[str, Any]] = {}
    schema: ClassVar[Mapping[str, Any]] = {
        "values": {"type": "object", "additionalProperties": {"type": "number"}},
        "units": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    title: ClassVar[str] = "Estimated quantities"
    best: ClassVar[str] = "rmse"
    loss_label: ClassVar[str] = "loss, of standardised targets"
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart("Error on held-out pictures", ("mae", "rmse"), "error, in the targets' units"),
        Chart("Explained variance on held-out pictures", ("r2",), "R\N{SUPERSCRIPT TWO}"),
    )
    measures: ClassVar[Mapping[str, Measure]] = {
        "mae": Measure("MAE", False),
        "rmse": Measure("RMSE", False),
        "r2": Measure("R\N{SUPERSCRIPT TWO}", True),
        "loss": Measure("loss", False),
    }

    @classmethod
    def open(cls, place: str | Path, split: Split, *, options: Any = None, **how: Any) -> TableSource:
        """One part of a table; see `open_table`."""
        wanted = options or RegressionOptions()
        return open_table(place, split, numbers=wanted.targets, columns=wanted.table, **how)

    @classmethod
    def declared(cls, data: DeclaredData) -> tuple[Source, Source]:
        """Refused: the targets' statistics come from the table."""
        raise RequestError("data.dir is not set: give --data-dir TABLE, a .csv or .parquet of paths and numbers")

    @classmethod
    def from_data(cls, options: Any, augment: Augment, source: Any) -> "Regression":
        """The names, units and statistics are the table's. Raises RequestError for a target that is constant."""
        mean, std = source.values.mean(0), source.values.std(0)
        for name, center, spread in zip(source.names, mean, std, strict=True):
            if not spread > 1e-12 * max(abs(center), 1e-300):
                raise RequestError(f"the target '{name}' is {center:g} in every training row: nothing can be learnt")
        numbers = tuple(map(float, mean)), tuple(map(float, std))
        own: Any = options.loss, options.huber_delta, augment, options.table, source.notes
        return cls(source.names, source.units, *numbers, *own)

    @classmethod
    def from_artifact(cls, labels: Sequence[str], options: Mapping[str, Any]) -> "Regression":
        """The options are those of `artifact_options`. Raises RequestError where they do not fit the labels."""
        try:
            numbers = {key: tuple(map(float, options[key])) for key in ("mean", "std")}
            units = tuple(map(str, options["units"]))
            names = ("loss", "huber_delta", "path_column", "split_column", "weight_column")
            kept = {key: options[key] for key in names if key in options}
            own = RegressionOptions(**kept)
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"a regression's mean, std and units are missing or no lists ({error})") from None
        if {len(units), *(len(values) for values in numbers.values())} != {len(labels)}:
            raise RequestError(f"a regression of {len(labels)} quantities needs as many units, means and deviations")
        loss: dict[str, Any] = {"kind": own.loss, "huber_delta": own.huber_delta, "table": own.table}
        return cls(tuple(labels), units, numbers["mean"], numbers["std"], **loss)

    def artifact_options(self) -> dict[str, Any]:
        """Units, statistics, the loss and the table's columns."""
        statistics = {"units": list(self.units), "mean": list(self.mean), "std": list(self.std)}
        columns = {"path_column": self.table.path, "split_column": self.table.split, "weight_column": self.table.weight}
        return {**statistics, "loss": self.kind, "huber_delta": self.huber_delta, **columns}

    def model_options(self, given: Mapping[str, Any], place: str | Path | None = None) -> dict[str, Any]:
        """The head, which gives numbers in their units. Raises RequestError where a classifier is asked for."""
        if "num_classes" in given:
            raise RequestError(
                "model.options.num_classes: a regression has no classes; its table says how many numbers"
            )
        return {"task_head": RegressionHead(len(self.labels), self.mean, self.std)}

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Raises RequestError unless there is a number per name."""
        if tuple(shape) != (len(self.labels),):
            raise RequestError(f"{len(self.labels)} quantities for a model that gives {tuple(shape)} numbers")

    def check_recorded(self, recorded: Sequence[str], place: str | Path) -> None:
        """Raises RequestError unless the table has the columns that a recipe recorded."""
        check_labels(recorded, self.labels, f"data.classes: {{}} in {place}", one="column", many="columns")

    def examples(
        self, spec: InputSpec, augment: Augment | None = None, decode: Literal["exact", "fast"] = "exact"
    ) -> ImageExamples:
        """ "image", and the numbers in their units as "values"."""
        return ImageExamples(spec, augment, decode=decode, target=Target(TARGETS, "float32", (len(self.labels),)))

    def reopen(self, place: str | Path, split: Split, **how: Any) -> TableSource:
        """A table's columns of this task's names; weights do not count. Raises RequestError where one is missing."""
        return open_table(place, split, numbers=self.labels, columns=replace(self.table, weight=None), **how)

    def target_bytes(self) -> int:
        """What the numbers take."""
        return 4 * len(self.labels)

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, Array]:
        """Erases and mixes; the targets (B, numbers) stay in their units."""
        erase_key, mix_key = jax.random.split(key)
        images = erase(erase_key, images, self.augmentation.erase_prob, mode=self.augmentation.erase_mode)
        return mix_targets(mix_key, images, batch[TARGETS], self.augmentation, batch["weight"])

    def loss(self, outputs: Array, targets: Array, weight: Array) -> tuple[Losses, Array]:
        """The mean over the numbers of the loss of (output - target) / std, one part."""
        losses = self._losses(outputs, targets)
        return {"values": jnp.where(weight > 0, losses * weight, 0.0).sum()}, weight.sum()

    def _losses(self, outputs: Array, targets: Array) -> Array:
        error = self._standardised(outputs - targets)
        if self.kind == "huber":
            return optax.huber_loss(error, delta=self.huber_delta).mean(-1)
        return (jnp.square(error) if self.kind == "mse" else jnp.abs(error)).mean(-1)

    def _standardised(self, differences: Array) -> Array:
        return differences.astype(jnp.float32) / jnp.asarray(self.std, jnp.float32)

    @cached_property
    def metric(self) -> "Errors":
        """Loss, MAE, RMSE and R\N{SUPERSCRIPT TWO}."""
        return Errors(self)

    def activate(self, outputs: Array) -> Array:
        """As they are: the numbers in their units."""
        return jnp.asarray(outputs, jnp.float32)

    def results(self, outputs: Array, sources: Sequence[str], sizes: Any = None, **options: Any) -> list[Estimate]:
        """The numbers of each picture.

        Args:
          outputs: (B, numbers).
        """
        return [
            Estimate(name, self.labels, tuple(map(float, row)), self.units)
            for name, row in zip(sources, np.asarray(outputs), strict=True)
        ]

    def failure(self, source: str, error: str) -> Estimate:
        """Without numbers."""
        return Estimate(source, self.labels, (), self.units, error)

    def facts(self) -> dict[str, Any]:
        """ "targets": their names."""
        return {"targets": list(self.labels)}

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """ "RMSE 0.3120, MAE 0.2204, R2 0.9871"."""
        names = ("rmse", "mae", "r2")
        unit = f" {self.units[0]}" if len(self.labels) == 1 and self.units[0] else ""
        found = [f"{self.measures[name].label} {self.measures[name].shown(metrics.get(name))}" for name in names]
        return ", ".join([*(text + unit for text in found[:2]), found[2]])

    def sections(self, examined: Examined) -> list[Section]:
        """Errors, predicted against true, the worst pictures."""
        truth, predicted = examined.targets[TARGETS], examined.rows["predicted"]
        charts: list[Scatter | Histogram] = []
        for i, name in enumerate(self.labels):
            label = f"{name}, {self.units[i]}" if self.units[i] else name
            pairs = np.stack([truth[:, i], predicted[:, i]], -1)
            counts, edges = np.histogram(pairs[:, 1] - pairs[:, 0], BARS)
            charts += [
                Scatter(f"{name}: predicted against true", pairs, f"true {label}", f"predicted {label}", diagonal=True),
                Histogram(f"{name}: errors", edges, counts, f"predicted minus true {label}"),
            ]
        return [
            Section("errors", "Errors", "Errors", [self._table(truth, predicted)]),
            Section("scatter", "Predicted and true", "Predicted against true", charts, charts=True),
            Section("worst", "Worst", "Largest errors", [self._gallery(examined)]),
        ]

    def _table(self, truth: np.ndarray, predicted: np.ndarray) -> Table:
        rows = []
        for i, (name, unit) in enumerate(zip(self.labels, self.units, strict=True)):
            error = predicted[:, i] - truth[:, i]
            total = np.square(truth[:, i] - truth[:, i].mean()).sum()
            r2 = f"{1 - np.square(error).sum() / total:.4f}" if total else "\N{EN DASH}"
            cells = [f"{number:.4g}" for number in (np.abs(error).mean(), np.sqrt(np.square(error).mean()))]
            rows.append((name, unit, *cells, r2, f"{truth[:, i].mean():.4g}", f"{truth[:, i].std():.4g}"))
        columns = ("quantity", "unit", "MAE", "RMSE", "R\N{SUPERSCRIPT TWO}", "mean", "standard deviation")
        return Table("errors-table", "errors per quantity", columns, rows, numeric=frozenset(range(2, 7)))

    def _gallery(self, examined: Examined) -> Gallery:
        found = []
        for row in self._worst(examined):
            place = int(examined.index[row])
            both = examined.targets[TARGETS], examined.rows["predicted"]
            truth, said = (self._words(values[row]) for values in both)
            found.append(Picture(examined.picture(place), examined.name(place), f"true {truth}", f"predicted {said}"))
        return Gallery(found, "No held-out picture counts.")

    def _worst(self, examined: Examined) -> np.ndarray:
        """Rows of the largest standardised errors, the largest first."""
        errors = np.abs(examined.rows["predicted"] - examined.targets[TARGETS]) / np.asarray(self.std)
        return np.argsort(-errors.max(-1), kind="stable")[:WORST]

    def telling(self, examined: Examined) -> list[int]:
        """The largest errors."""
        return [int(examined.index[row]) for row in self._worst(examined)]

    def truth(self, target: Any) -> str:
        """The numbers with their units."""
        return self._words(np.asarray(target))

    def _words(self, values: np.ndarray) -> str:
        shown = [with_unit(float(value), unit) for value, unit in zip(values, self.units, strict=True)]
        named = [f"{name} {text}" for name, text in zip(self.labels, shown, strict=True)]
        return shown[0] if len(shown) == 1 else ", ".join(named)


class Errors(Metric):
    """Sums for the mean errors and for R\N{SUPERSCRIPT TWO}, per number, of standardised targets."""

    def __init__(self, task: Regression) -> None:
        self._task = task

    def init(self) -> State:
        """Sums of the loss, the absolute and squared errors, the targets and their squares; and the count."""
        zeros = np.zeros(len(self._task.labels), np.float32)
        sums = dict.fromkeys(("absolute", "squared", "target", "target_squared"), zeros)
        return {"loss": np.float32(0), "count": np.float32(0), **sums}

    def update(self, state: State, outputs: Any, batch: DeviceBatch) -> State:
        task, weight = self._task, batch["weight"]
        error = task._standardised(outputs - batch[TARGETS])
        target = task._standardised(batch[TARGETS] - jnp.asarray(task.mean, jnp.float32))
        values = {
            "loss": task._losses(outputs, batch[TARGETS]),
            "count": jnp.ones_like(weight),
            "absolute": jnp.abs(error),
            "squared": jnp.square(error),
            "target": target,
            "target_squared": jnp.square(target),
        }
        return {name: state[name] + _weighted(values[name], weight) for name in state}

    def collect(self, outputs: Any, batch: DeviceBatch) -> dict[str, Array]:
        """The numbers that were predicted."""
        return {"predicted": outputs.astype(jnp.float32)}

    def compute(self, state: State, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The means over the numbers; with several also each number's, as "mae/<name>" and so on."""
        count, std = float(state["count"]), np.asarray(self._task.std)
        if not count:
            return dict.fromkeys(("loss", "mae", "rmse", "r2"), math.nan)
        spread = state["target_squared"] - np.square(state["target"]) / count
        known = spread > 1e-9 * count
        r2 = np.where(known, 1 - state["squared"] / np.where(known, spread, 1.0), np.nan)
        each = {"mae": std * state["absolute"] / count, "rmse": std * np.sqrt(state["squared"] / count), "r2": r2}
        found = {"loss": float(state["loss"]) / count, **{name: float(values.mean()) for name, values in each.items()}}
        if len(std) > 1:
            for name, values in each.items():
                found |= {f"{name}/{label}": float(v) for label, v in zip(self._task.labels, values, strict=True)}
        return found


def with_unit(value: float, unit: str) -> str:
    """Four significant digits, and the unit."""
    return f"{value:.4g} {unit}".rstrip()


def _weighted(values: Array, weight: Array) -> Array:
    """The sum over the examples; one of weight 0 adds nothing, not even NaN."""
    shaped = weight.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(shaped > 0, values * shaped, 0.0).sum(0)
