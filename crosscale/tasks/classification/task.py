"""One label per picture: cross-entropy on soft targets, top-1 and top-5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crosscale.contracts import Array, InputSpec, LabelledSource, Source
from crosscale.data.augment import Augment
from crosscale.data.class_map import Relabelled, labels_of, map_classes
from crosscale.data.declared import DeclaredSource
from crosscale.data.examples import ImageExamples
from crosscale.data.mask_layouts import is_mask_folder
from crosscale.data.mix import erase, mix
from crosscale.data.sources import open_source
from crosscale.data.table_rows import RECOGNISED, TableColumns
from crosscale.errors import RequestError
from crosscale.tasks.checks import check_labels, classes_option, declared_sizes
from crosscale.tasks.classification.calibration import (
    best_temperature,
    calibration_error,
    confidence,
    log_loss,
    threshold_of,
)
from crosscale.tasks.classification.metric import MEASURES, Verdicts
from crosscale.tasks.classification.options import ClassificationOptions, weights_of_classes
from crosscale.tasks.classification.report import sections, telling
from crosscale.tasks.classification.result import Prediction
from crosscale.tasks.classification.source import label_order, one_class_advice
from crosscale.tasks.defaults import PlainTask
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch
from crosscale.tasks.sections import Chart, Examined, Section
from crosscale.tasks.task import DeclaredData, Losses, ResultOption, Split
from crosscale.typed import convert, from_plain

_COLUMNS = ("path_column", "label_column", "split_column")  # kept with the weights; those of training are not


@dataclass(frozen=True)
class Classification(PlainTask):
    """Single-label classification.

    Attributes:
      num_classes: width of the logits.
      label_smoothing: in [0, 1); share of each training target that is spread over all classes.
      augmentation: supplies random erasing, mixup and CutMix; what else it holds is the loader's.
      classes: names in label order; () calls them "0", "1", ...
      temperature: the logits are divided by it before they become probabilities; training uses none.
      reject: the least probability that is answered, in 0..1; None answers every picture.
      class_weights: in the loss, in label order; None for all alike.
      focal_gamma: 0 or more; above 0 each class's share of the loss is multiplied by (1 - probability)^gamma.
      balanced: whether training sees all classes equally often.
      class_map: (old, new) names of classes that get another name; new is None for those that are left out.
      table: the columns of a table.
      remarks: lines on how the data was read.
    """

    num_classes: int
    label_smoothing: float = 0.0
    augmentation: Augment = field(default_factory=Augment.none)
    classes: tuple[str, ...] = ()
    temperature: float = 1.0
    reject: float | None = None
    class_weights: tuple[float, ...] | None = None
    focal_gamma: float = 0.0
    balanced: bool = False
    class_map: tuple[tuple[str, str | None], ...] = ()
    table: TableColumns = RECOGNISED
    remarks: tuple[str, ...] = ()

    name: ClassVar[str] = "classification"
    Options: ClassVar[type] = ClassificationOptions
    has_logits: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("class", "probability")
    numeric: ClassVar[tuple[str, ...]] = ("probability",)
    activation: ClassVar[str] = "probabilities"
    noun: ClassVar[str] = "classes"
    result_options: ClassVar[Mapping[str, ResultOption]] = {
        "top_k": ResultOption(5, 1, "K", "classes to name per image"),
    }
    schema: ClassVar[Mapping[str, Any]] = {
        "classes": {"type": "array", "items": {"type": "string"}},
        "probabilities": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
    }
    title: ClassVar[str] = "Most probable classes"
    best: ClassVar[str] = "top1"
    loss_label: ClassVar[str] = "cross-entropy, nats"
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart("Accuracy on held-out pictures", ("top1", "top5"), "accuracy, %", share=True),
    )
    measures: ClassVar[Mapping[str, Measure]] = MEASURES

    @classmethod
    def open(cls, place: str | Path, split: Split, *, options: Any = None, **how: Any) -> LabelledSource:
        """One part of a labelled data set; see `crosscale.data.open_source`.

        Raises RequestError for a folder of pictures with masks, whose folders would pass for classes.
        """
        if is_mask_folder(place):
            raise RequestError(
                f"{place}: holds pictures with masks; to learn a class for every pixel: --config segment, or "
                "task.name: segmentation with a model such as semantic_fpn_crossformer_small"
            )
        wanted = options or ClassificationOptions()
        source = open_source(place, split, columns=wanted.table, **how)
        return map_classes(source, wanted.class_map, str(place))

    @classmethod
    def declared(cls, data: DeclaredData) -> tuple[Source, Source]:
        """Sources of the declared sizes, without examples. Raises RequestError where a size is missing."""
        classes, train, val = declared_sizes(data, "FOLDER (or digits)")
        return DeclaredSource(classes, train), DeclaredSource(classes, val)

    @classmethod
    def from_data(cls, options: Any, augment: Augment, source: Any) -> "Classification":
        """The classes are the source's."""
        classes = tuple(source.classes)
        if len(classes) == 1:
            raise RequestError(f"{one_class_advice(source)}; a classification needs two classes or more")
        made: Any = cls(len(classes), options.label_smoothing, augment, classes)
        if options.class_weights is not None:
            counts = np.bincount(labels_of(source), minlength=len(classes))
            made = replace(made, class_weights=weights_of_classes(options.class_weights, classes, counts))
        return replace(
            made,
            focal_gamma=options.focal_gamma,
            balanced=options.sampling == "balanced",
            class_map=tuple(options.class_map.items()),
            table=options.table,
            remarks=getattr(source, "notes", ()),
        )

    @classmethod
    def from_artifact(cls, labels: Sequence[str], options: Mapping[str, Any]) -> "Classification":
        """The labels are the class names; the options say how data is read. Raises RequestError."""
        columns = {key: options[key] for key in _COLUMNS if key in options}
        own = from_plain(ClassificationOptions, {**columns, "class_map": options.get("class_map", {})}, "task_options")
        temperature = convert(float, options.get("temperature", 1.0), "task_options.temperature")
        reject = convert(float | None, options.get("reject"), "task_options.reject")
        if not 0 < temperature < np.inf or not (reject is None or 0 <= reject <= 1):
            raise RequestError(f"a temperature of {temperature:g} and a threshold of {reject}: above 0, and in 0..1")
        made = cls(len(labels), classes=tuple(labels), class_map=tuple(own.class_map.items()), table=own.table)
        return replace(made, temperature=temperature, reject=reject)

    def artifact_options(self) -> dict[str, Any]:
        """How data is read, as far as a recipe says so: the columns of a table, and classes under another name."""
        columns = zip(_COLUMNS, (self.table.path, self.table.label, self.table.split), strict=True)
        named: dict[str, Any] = {key: name for key, name in columns if name is not None}
        named |= {"class_map": dict(self.class_map)} if self.class_map else {}
        named |= {"temperature": self.temperature} if self.temperature != 1 else {}
        return {**named, "reject": self.reject} if self.reject is not None else named

    def check_calibration(self) -> None:
        """Any classification can be calibrated."""

    def calibrated(
        self,
        outputs: np.ndarray,
        targets: Mapping[str, np.ndarray],
        *,
        precision: float | None = None,
        coverage: float | None = None,
    ) -> tuple["Classification", dict[str, Any]]:
        """With the temperature of the least loss, and the threshold of a wanted precision or coverage.

        The numbers: "temperature", "loss" and "ece" with it and before, and "threshold", "coverage" and "precision" of
        what is answered, None without a wish.
        """
        labels = targets["label"]
        right = outputs.argmax(1) == labels
        temperature = best_temperature(outputs, labels)
        sure = confidence(outputs, temperature)
        found = None
        if precision is not None or coverage is not None:
            found = threshold_of(sure, right, precision=precision, coverage=coverage)
        numbers = {
            "temperature": temperature,
            "loss": log_loss(outputs, labels, temperature),
            "loss_before": log_loss(outputs, labels, self.temperature),
            "ece": calibration_error(sure, right),
            "ece_before": calibration_error(confidence(outputs, self.temperature), right),
            "threshold": None if found is None else found.threshold,
            "coverage": None if found is None else found.coverage,
            "precision": None if found is None else found.precision,
        }
        # Just below the threshold in float32, so that the picture whose probability it is gets its answer.
        reject = None if found is None else float(np.nextafter(np.float32(found.threshold * (1 - 1e-6)), np.float32(0)))
        return replace(self, temperature=temperature, reject=reject), numbers

    @property
    def notes(self) -> tuple[str, ...]:
        """How the data was read, and the weights of the classes where they are not given."""
        if self.class_weights is None:
            return self.remarks
        pairs = sorted(zip(self.class_weights, self.labels, strict=True), reverse=True)
        shown = [f"{name} {weight:.3g}" for weight, name in pairs]
        middle = [*shown[:3], "...", *shown[-2:]] if len(shown) > 6 else shown
        return (*self.remarks, f"weights of the classes in the loss: {', '.join(middle)}")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The class names."""
        return self.classes or tuple(map(str, range(self.num_classes)))

    def model_options(self, given: Mapping[str, Any], place: str | Path | None = None) -> dict[str, Any]:
        """`num_classes`. Raises RequestError where another number was given."""
        return classes_option(given, self.num_classes, place)

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Raises RequestError unless there are as many logits as classes."""
        if tuple(shape) != (self.num_classes,):
            raise RequestError(f"{self.num_classes} class names for a model of {shape[-1]} classes; give one per class")

    def examples(
        self, spec: InputSpec, augment: Augment | None = None, decode: Literal["exact", "fast"] = "exact"
    ) -> ImageExamples:
        """ "image", and the class index as "label"."""
        return ImageExamples(spec, augment, decode=decode)

    def reopen(self, place: str | Path, split: Split, **how: Any) -> Source:
        """The labels are in this task's order, by class name; the data may lack classes, but have no others."""
        table = self.table
        columns = ClassificationOptions(path_column=table.path, label_column=table.label, split_column=table.split)
        source = self.open(place, split, options=columns, **how)
        source = map_classes(source, dict(self.class_map), str(place), lenient=True)
        order = label_order(source.classes, self.labels, place)
        return source if tuple(source.classes) == self.labels else Relabelled(source, self.labels, order)

    def check_recorded(self, recorded: Sequence[str], place: str | Path) -> None:
        """Raises RequestError unless the data has the classes that a recipe recorded."""
        check_labels(recorded, self.labels, f"data.classes: {{}} in {place}", one="class", many="classes")

    def target_bytes(self) -> int:
        """What a soft target takes."""
        return 4 * self.num_classes

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, Array]:
        """Erases and mixes.

        Args:
          images: (B, H, W, C) normalised.
          batch: "label" (B,) and "weight" (B,).

        Returns:
          images of the same shape and targets (B, num_classes) whose rows sum to 1.
        """
        erase_key, mix_key = jax.random.split(key)
        images = erase(erase_key, images, self.augmentation.erase_prob, mode=self.augmentation.erase_mode)
        return mix(
            mix_key,
            images,
            batch["label"],
            num_classes=self.num_classes,
            label_smoothing=self.label_smoothing,
            augment=self.augmentation,
            weight=batch["weight"],
        )

    def groups(self, source: Any) -> np.ndarray | None:
        """The labels, where training sees all classes equally often."""
        return labels_of(source) if self.balanced else None

    def loss(self, outputs: Array, targets: Array, weight: Array) -> tuple[Losses, Array]:
        """Softmax cross-entropy in float32, weighted by class and focal where asked for; one part.

        Focal: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 4; of soft targets each class's part.
        """
        logits = outputs.astype(jnp.float32)
        if self.class_weights is not None:
            targets = targets * jnp.asarray(self.class_weights, jnp.float32)
        if self.focal_gamma:
            log_p = jax.nn.log_softmax(logits, axis=-1)
            # -expm1 is 1 - p without cancellation; its power has no finite gradient at 0 where gamma is below 1.
            targets = targets * jnp.maximum(-jnp.expm1(log_p), 1e-7) ** self.focal_gamma
        losses = optax.softmax_cross_entropy(logits, targets)
        # where, not only a product: a padded example's loss may be infinite, and 0 * inf is NaN
        return {"labels": jnp.where(weight > 0, losses * weight, 0.0).sum()}, weight.sum()

    @cached_property
    def metric(self) -> Verdicts:
        """Cross-entropy with the hard label, top-1 and top-5 (top-k where there are fewer classes), and more."""
        return Verdicts(self.num_classes, self.temperature)

    def activate(self, outputs: Array) -> Array:
        """Logits (..., classes) -> probabilities in float32."""
        logits = jnp.asarray(outputs, jnp.float32)
        return jax.nn.softmax(logits if self.temperature == 1 else logits / self.temperature, axis=-1)

    def outputs_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Their logarithms, times the temperature."""
        least = np.finfo(np.float32).tiny
        return np.asarray(self.temperature * np.log(np.maximum(probabilities, least)), np.float32)

    def results(self, outputs: Array, sources: Sequence[str], sizes: Any = None, **options: Any) -> list[Prediction]:
        """The most probable classes of each picture with their probabilities, best first.

        Args:
          outputs: (B, num_classes) logits.
          **options: `top_k`, how many classes; no more than there are.
        """
        top_k = options.get("top_k", self.result_options["top_k"].default)
        probabilities = np.asarray(self.activate(outputs))
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, : min(top_k, self.num_classes)]
        return [
            Prediction(name, tuple(self.labels[i] for i in best), tuple(float(row[i]) for i in best), None, self.reject)
            for name, row, best in zip(sources, probabilities, order, strict=True)
        ]

    def failure(self, source: str, error: str) -> Prediction:
        """Without classes."""
        return Prediction(source, (), (), error, self.reject)

    def cells(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """ "class", the answer, and "probability", of the most probable one; "class_2", "probability_2" and so on.

        With a threshold "class_1" is the most probable one, whose place "unknown" may have taken in "class".
        """
        found = list(zip(result["classes"], result["probabilities"], strict=True))
        first = found[0] if found else (None, None)
        answered = {"class": result["answer"], "class_1": first[0]} if "answer" in result else {"class": first[0]}
        cells = {**answered, "probability": first[1]}
        for place, (name, probability) in enumerate(found[1:], 2):
            cells |= {f"class_{place}": name, f"probability_{place}": probability}
        return cells

    def facts(self) -> dict[str, Any]:
        """ "classes": their number."""
        return {"classes": self.num_classes}

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """ "top-1 98.61 % (354 of 359; 95 % interval 96.8 to 99.4 %), top-5 100.00 %, loss 0.1168"."""
        names = ("top1", "top5", "loss")
        top1, top5, loss = (f"{self.measures[n].label} {self.measures[n].shown(metrics.get(n))}" for n in names)
        worth = self.measures["top1"].counted(metrics.get("top1"), metrics.get("examples"))
        return f"{top1}{f' ({worth})' if worth else ''}, {top5}, {loss}"

    def sections(self, examined: Examined) -> list[Section]:
        """Classes, confusion matrix, mistakes."""
        return sections(self.labels, examined)

    def telling(self, examined: Examined) -> list[int]:
        """The surest mistakes."""
        return telling(examined)

    def truth(self, target: Any) -> str:
        """The class name."""
        return self.labels[int(target)]
