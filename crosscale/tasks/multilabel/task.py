"""Any number of labels per picture: a sigmoid per label, binary cross-entropy or the asymmetric loss, mAP and F1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array, InputSpec, Source
from crosscale.data.augment import Augment
from crosscale.data.examples import ImageExamples, Target
from crosscale.data.mix import erase, mix_targets
from crosscale.data.table_rows import RECOGNISED, TableColumns
from crosscale.data.tag_table import TagTable, open_tag_table
from crosscale.errors import RequestError
from crosscale.tasks.checks import check_labels, classes_option
from crosscale.tasks.defaults import PlainTask
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch
from crosscale.tasks.multilabel.metric import PLAIN, TAGS, Ranking
from crosscale.tasks.multilabel.options import MultiLabelOptions
from crosscale.tasks.multilabel.report import sections, telling, words
from crosscale.tasks.multilabel.result import Tagged
from crosscale.tasks.sections import Chart, Examined, Section
from crosscale.tasks.task import DeclaredData, Losses, ResultOption, Split
from crosscale.typed import from_plain


@dataclass(frozen=True)
class MultiLabel(PlainTask):
    """Multi-label classification.

    Attributes:
      labels: their names.
      thresholds: a label is said from this probability on; None until a validation has chosen them.
      loss_kind: binary cross-entropy, or the asymmetric loss.
      gammas: of the asymmetric loss, for labels that are there and for those that are missing.
      margin: of the asymmetric loss.
      augmentation: supplies random erasing, mixup and CutMix, which mixes the labels too.
      table: the table's columns, except those of the labels.
      label_columns: see `crosscale.data.tag_table.open_tag_table`, and for the next two.
      remarks: lines on how the data was read.
    """

    labels: tuple[str, ...]
    thresholds: tuple[float, ...] | None = None
    loss_kind: Literal["bce", "asymmetric"] = "bce"
    gammas: tuple[float, float] = (0.0, 4.0)
    margin: float = 0.05
    augmentation: Augment = field(default_factory=Augment.none)
    table: TableColumns = RECOGNISED
    label_columns: tuple[str, ...] = ()
    separator: str = "|"
    class_map: tuple[tuple[str, str | None], ...] = ()
    remarks: tuple[str, ...] = ()

    name: ClassVar[str] = "multilabel"
    Options: ClassVar[type] = MultiLabelOptions
    has_logits: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("label", "probability")
    numeric: ClassVar[tuple[str, ...]] = ("probability",)
    activation: ClassVar[str] = "probabilities"
    noun: ClassVar[str] = "labels"
    result_options: ClassVar[Mapping[str, ResultOption]] = {}
    schema: ClassVar[Mapping[str, Any]] = {
        "labels": {"type": "array", "items": {"type": "string"}},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
    }
    title: ClassVar[str] = "Labels"
    best: ClassVar[str] = "map"
    loss_label: ClassVar[str] = "binary cross-entropy, nats"
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart("Labels of held-out pictures", ("map", "macro_f1", "micro_f1"), "share, %", share=True),
    )
    measures: ClassVar[Mapping[str, Measure]] = {
        "map": Measure("mAP", True, share=True),
        "macro_f1": Measure("macro F1", True, share=True),
        "micro_f1": Measure("micro F1", True, share=True),
        "loss": Measure("loss", False, unit="nats"),
    }

    @classmethod
    def open(cls, place: str | Path, split: Split, *, options: Any = None, **how: Any) -> TagTable:
        """One part of a table; see `open_tag_table`."""
        wanted = options or MultiLabelOptions()
        named: dict[str, Any] = {"labels": wanted.label_columns, "separator": wanted.separator}
        return open_tag_table(place, split, columns=wanted.table, class_map=wanted.class_map, **named, **how)

    @classmethod
    def declared(cls, data: DeclaredData) -> tuple[Source, Source]:
        """Refused: the labels come from the table."""
        raise RequestError("data.dir is not set: give --data-dir TABLE, a .csv or .parquet of paths and labels")

    @classmethod
    def from_data(cls, options: Any, augment: Augment, source: Any) -> "MultiLabel":
        """The labels are the table's. Raises RequestError for one that every picture to train on has."""
        for name, share in zip(source.classes, source.tags.mean(0), strict=True):
            if share == 1:
                raise RequestError(f"every training picture has the label '{name}': nothing can be learnt about it")
        gammas = options.gamma_positive, options.gamma_negative
        read: dict[str, Any] = {"table": options.table, "label_columns": options.label_columns}
        read |= {"separator": options.separator, "class_map": tuple(options.class_map.items())}
        return cls(
            tuple(source.classes), None, options.loss, gammas, options.margin, augment, **read, remarks=source.notes
        )

    @classmethod
    def from_artifact(cls, labels: Sequence[str], options: Mapping[str, Any]) -> "MultiLabel":
        """The options are those of `artifact_options`. Raises RequestError where they do not fit the labels."""
        limits = options.get("thresholds")
        own = from_plain(MultiLabelOptions, {k: v for k, v in options.items() if k != "thresholds"}, "task_options")
        if limits is not None:
            fit = isinstance(limits, list) and len(limits) == len(labels)
            if not fit or not all(isinstance(limit, int | float) and 0 <= limit <= 1 for limit in limits):
                raise RequestError(f"{len(labels)} labels need as many thresholds, each in 0..1")
            limits = tuple(map(float, limits))
        read: dict[str, Any] = {"table": own.table, "label_columns": own.label_columns, "separator": own.separator}
        return cls(tuple(labels), limits, **read, class_map=tuple(own.class_map.items()))

    def artifact_options(self) -> dict[str, Any]:
        """The thresholds, and how the table is read."""
        return {
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "path_column": self.table.path,
            "split_column": self.table.split,
            "label_columns": list(self.label_columns),
            "separator": self.separator,
            "class_map": dict(self.class_map),
        }

    def validated(self, metrics: Mapping[str, float]) -> "MultiLabel":
        """With the thresholds that the validation chose."""
        found = [metrics.get(f"threshold/{name}") for name in self.labels]
        known = tuple(float(limit) for limit in found if limit is not None)
        return replace(self, thresholds=known) if len(known) == len(self.labels) else self

    @property
    def notes(self) -> tuple[str, ...]:
        """How the table was read."""
        return self.remarks

    @property
    def limits(self) -> tuple[float, ...]:
        """The thresholds, 0.5 where none are chosen."""
        return self.thresholds or (PLAIN,) * len(self.labels)

    def model_options(self, given: Mapping[str, Any], place: str | Path | None = None) -> dict[str, Any]:
        """`num_classes`. Raises RequestError where another number was given."""
        return classes_option(given, len(self.labels), place, self.noun)

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Raises RequestError unless there is an output per label."""
        if tuple(shape) != (len(self.labels),):
            raise RequestError(f"{len(self.labels)} labels for a model that gives {tuple(shape)} numbers")

    def examples(
        self, spec: InputSpec, augment: Augment | None = None, decode: Literal["exact", "fast"] = "exact"
    ) -> ImageExamples:
        """ "image", and 0 or 1 for each label as "tags"."""
        return ImageExamples(spec, augment, decode=decode, target=Target(TAGS, "float32", (len(self.labels),)))

    def reopen(self, place: str | Path, split: Split, **how: Any) -> TagTable:
        """A table's labels in this task's order; it may lack some, but have no others."""
        columns = TableColumns(self.table.path, self.table.split)
        named: dict[str, Any] = {"labels": self.label_columns, "separator": self.separator, "columns": columns}
        source = open_tag_table(place, split, class_map=dict(self.class_map), **named, **how)
        return source.counted_as(self.labels, place)

    def check_recorded(self, recorded: Sequence[str], place: str | Path) -> None:
        """Raises RequestError unless the table has the labels that a recipe recorded."""
        check_labels(recorded, self.labels, f"data.classes: {{}} in {place}", one="label", many="labels")

    def target_bytes(self) -> int:
        """What the labels take."""
        return 4 * len(self.labels)

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, Array]:
        """Erases and mixes; the targets are (B, labels) in 0..1."""
        erase_key, mix_key = jax.random.split(key)
        images = erase(erase_key, images, self.augmentation.erase_prob, mode=self.augmentation.erase_mode)
        return mix_targets(mix_key, images, batch[TAGS], self.augmentation, batch["weight"])

    def loss(self, outputs: Array, targets: Array, weight: Array) -> tuple[Losses, Array]:
        """The mean over the labels of the binary cross-entropy, or of the asymmetric loss; one part.

        Asymmetric: Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021, eqs. 4 to 7, which sums
        over the labels.
        """
        logits = outputs.astype(jnp.float32)
        log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        if self.loss_kind == "bce":
            losses = -(targets * log_p + (1 - targets) * log_q)
        else:
            p = jnp.exp(log_p)
            shifted = jnp.maximum(p - self.margin, 0.0)
            there, missing = self.gammas
            # The powers have no finite gradient at 0 where gamma is below 1.
            positive = targets * log_p * jnp.maximum(1 - p, 1e-7) ** there
            losses = -(positive + (1 - targets) * jnp.log1p(-shifted) * jnp.maximum(shifted, 1e-7) ** missing)
        each = losses.mean(-1)
        return {"labels": jnp.where(weight > 0, each * weight, 0.0).sum()}, weight.sum()

    @cached_property
    def metric(self) -> Ranking:
        """mAP, macro and micro F1 and the loss."""
        return Ranking(self.labels, self.thresholds)

    def activate(self, outputs: Array) -> Array:
        """Logits (..., labels) -> probabilities in float32."""
        return jax.nn.sigmoid(jnp.asarray(outputs, jnp.float32))

    def outputs_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Their logits."""
        inside = np.clip(probabilities, np.finfo(np.float32).tiny, 1 - np.finfo(np.float64).eps)
        return np.asarray(np.log(inside) - np.log1p(-inside), np.float32)

    def results(self, outputs: Array, sources: Sequence[str], sizes: Any = None, **options: Any) -> list[Tagged]:
        """The labels of each picture.

        Args:
          outputs: (B, labels) logits.
        """
        return [
            Tagged(name, self.labels, tuple(map(float, row)), self.limits)
            for name, row in zip(sources, np.asarray(self.activate(outputs)), strict=True)
        ]

    def failure(self, source: str, error: str) -> Tagged:
        """Without labels."""
        return Tagged(source, self.labels, (), self.limits, error)

    def facts(self) -> dict[str, Any]:
        """ "labels": their number."""
        return {"labels": len(self.labels)}

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """ "mAP 93.10 %, macro F1 88.00 %, micro F1 90.12 %, loss 0.1168"."""
        return ", ".join(f"{measure.label} {measure.shown(metrics.get(n))}" for n, measure in self.measures.items())

    def sections(self, examined: Examined) -> list[Section]:
        """Labels, and the pictures with the largest losses."""
        return sections(self.labels, self.limits, examined)

    def telling(self, examined: Examined) -> list[int]:
        """The largest losses."""
        return telling(examined)

    def truth(self, target: Any) -> str:
        """The labels' names."""
        return words(self.labels, np.asarray(target) > 0.5)
