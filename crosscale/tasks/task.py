"""What the rest of the package asks of a task. Another task is another folder here, and one line in `registry`.

A task is made twice in its life: by `from_data`, from a recipe's options and the opened training data, and by
`from_artifact`, from what a trained model's folder says. Both make the same object, so that training, validation,
prediction, export and the service read the model's outputs in one way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from PIL.Image import Image

from crosscale.contracts import Array, Examples, InputSpec, Source
from crosscale.data.augment import Augment
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch, Metric
from crosscale.tasks.sections import Chart, Examined, Section

Split = Literal["train", "val", "all"]
Losses = dict[str, Array]  # parts by name, each summed over the examples times their weights


@dataclass(frozen=True)
class DeclaredData:
    """How large the data is, where it is not at hand; None where the recipe does not say.

    Attributes:
      train_images: examples to train on.
      val_images: examples held out.
      outputs: classes, or whatever else the model's outputs stand for.
      labels: their names.
    """

    train_images: int | None = None
    val_images: int | None = None
    outputs: int | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ResultOption:
    """A whole number that sets how much a result says.

    Attributes:
      help: for the command line.
    """

    default: int
    minimum: int
    metavar: str
    help: str


class CaptionLine(NamedTuple):
    """A line beside a picture: text, what stands at its end, and the share of it that is shaded (None for none)."""

    text: str
    value: str
    share: float | None = None


class Result(Protocol):
    """What a model says of one picture, or why nothing can be said of it.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      error: one line on why the picture could not be used; None where it could.
    """

    @property
    def source(self) -> str: ...

    @property
    def error(self) -> str | None: ...

    def json(self) -> dict[str, Any]:
        """In JSON's types, "source" and "error" among them; the same keys whether there is an error or not."""
        ...

    def rows(self) -> list[tuple[str, ...]]:
        """Cells for people, a line or several, under the task's `columns`; none where there is an error."""
        ...

    def caption(self) -> list[CaptionLine]:
        """A few short lines to go beside a drawing of the picture; none where there is an error."""
        ...

    def files(self, picture: Image) -> dict[str, bytes]:
        """The files that go with the picture as it came: contents by the end of the file's name, such as
        "_mask.png"."""
        ...

    def attachments(self) -> dict[str, Any]:
        """What a program gets in addition to `json`, in JSON's types, such as a mask as base64 of a PNG file."""
        ...


class Task(Protocol):
    """Everything that depends on what is learnt.

    Attributes:
      name: as the recipe and the artifact spell it.
      Options: dataclass of the keys of the recipe's section `task`; its field `name` is the task's.
      labels: what the model's outputs are called, in order.
      best: the measure that chooses the best checkpoint where the recipe does not say.
      measures: of each number that `metric` gives, in the order in which they are shown.
      metric: what a validation counts.
      method: the model's method whose outputs `metric` and `results` read; None is `__call__`. The loss reads those of
        `training_outputs`.
      has_logits: whether the outputs are class scores whose softmax means something, so that a teacher can be learnt.
      columns: headers of the results' rows, behind the one of the source.
      numeric: those of them that are set to the right.
      exports_inferred: whether an exported program gives what `infer` does, rather than the model's `__call__`.
      activation: what `activate` gives, for the description of an exported program.
      noun: what the labels are, in plural: "classes".
      result_options: of `results`, by name.
      test_options: names of `Options` that can be changed after training, by `with_options`.
      schema: of the results' JSON, as OpenAPI describes properties.
      served_schema: the same of what `attachments` adds to it.
      title: above a result, for people.
      loss_label: of the loss's axis in a chart.
      charts: of the other measures.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    method: ClassVar[str | None]
    has_logits: ClassVar[bool]
    columns: ClassVar[tuple[str, ...]]
    numeric: ClassVar[tuple[str, ...]]
    exports_inferred: ClassVar[bool]
    activation: ClassVar[str]
    noun: ClassVar[str]
    result_options: ClassVar[Mapping[str, ResultOption]]
    test_options: ClassVar[tuple[str, ...]]
    schema: ClassVar[Mapping[str, Any]]
    served_schema: ClassVar[Mapping[str, Any]]
    title: ClassVar[str]
    best: ClassVar[str]
    measures: ClassVar[Mapping[str, Measure]]
    loss_label: ClassVar[str]
    charts: ClassVar[tuple[Chart, ...]]

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines on what was chosen by the data, for the beginning of a run's log."""
        ...

    # Made from data or from an artifact.

    @classmethod
    def open(
        cls,
        place: str | Path,
        split: Split,
        *,
        val_fraction: float,
        seed: int,
        options: Any = None,
        root: str | Path | None = None,
    ) -> Source:
        """One part of a data set for training. Raises RequestError, WorkError.

        Args:
          options: the recipe's, of the class `Options`; None is their defaults.
          root: what the paths in a table are relative to; None is the table's folder.
        """
        ...

    @classmethod
    def declared(cls, data: DeclaredData) -> tuple[Source, Source]:
        """Sources of the declared sizes, without examples. Raises RequestError where a size is missing."""
        ...

    @classmethod
    def from_data(cls, options: Any, augment: Augment, source: Source) -> "Task":
        """The task that a recipe asks for on its training data. Raises RequestError."""
        ...

    @classmethod
    def from_artifact(cls, labels: Sequence[str], options: Mapping[str, Any]) -> "Task":
        """The task of a trained model: `labels` and `artifact_options` as they were. Raises RequestError."""
        ...

    def artifact_options(self) -> dict[str, Any]:
        """What `from_artifact` needs in addition to the labels, as JSON holds it."""
        ...

    def with_options(self, options: Mapping[str, Any]) -> "Task":
        """The same task with other values of `test_options`. Raises RequestError."""
        ...

    # The model's end.

    def model_options(self, given: Mapping[str, Any], place: str | Path | None = None) -> dict[str, Any]:
        """Constructor fields that the task decides, such as the number of outputs.

        Args:
          given: the recipe's constructor fields.
          place: of the data, for the error.

        Raises:
          RequestError: one of them says otherwise.
        """
        ...

    def input_spec(self, spec: InputSpec) -> InputSpec:
        """The model's input as training of this task feeds it."""
        ...

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Raises RequestError unless outputs of one picture of this shape are the task's."""
        ...

    # On the host.

    def examples(
        self, spec: InputSpec, augment: Augment | None = None, decode: Literal["exact", "fast"] = "exact"
    ) -> Examples:
        """What becomes of a record; without `augment` for validation alone."""
        ...

    def fit(self, spec: InputSpec, img: Image) -> np.ndarray:
        """A decoded picture of any size as the model takes it in validation and prediction: (h, w, C) uint8."""
        ...

    def content(self, spec: InputSpec, size: tuple[int, int]) -> tuple[int, int] | None:
        """Height and width that a picture of `size` has in what `fit` gives; None for a task whose pictures fill it."""
        ...

    def reopen(
        self, place: str | Path, split: Split, *, val_fraction: float, seed: int, root: str | Path | None = None
    ) -> Source:
        """Any data for a task that is trained, with its targets counted as the task counts them.

        Raises:
          RequestError: the data is not there, or of other labels.
        """
        ...

    def measuring(self, source: Source) -> "Task":
        """The task as it measures these held-out examples; its metric may read more of them than a batch holds."""
        ...

    def validated(self, metrics: Mapping[str, float]) -> "Task":
        """The task with what a validation has chosen, such as thresholds; `artifact_options` keeps it."""
        ...

    def check_calibration(self) -> None:
        """Raises RequestError for a task that has nothing to calibrate."""
        ...

    def calibrated(
        self,
        outputs: np.ndarray,
        targets: Mapping[str, np.ndarray],
        *,
        precision: float | None = None,
        coverage: float | None = None,
    ) -> tuple["Task", dict[str, Any]]:
        """The task with what follows from held-out pictures' outputs (N, ...) and targets, and numbers on it.

        Raises RequestError where a wish cannot be met, and WorkError where nothing follows.
        """
        ...

    def groups(self, source: Any) -> np.ndarray | None:
        """(N,) whole numbers of the training source's examples: groups that training sees equally often; None for
        every example equally often."""
        ...

    def check_recorded(self, recorded: Sequence[str], place: str | Path) -> None:
        """Raises RequestError unless the labels are those that a recipe recorded."""
        ...

    def target_bytes(self) -> int:
        """The bytes of one example's targets on the device, for the estimate of memory."""
        ...

    # On the device: pure, inside jit.

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, Any]:
        """Normalised training images and their batch -> the images and the targets of this step."""
        ...

    def training_options(self, targets: Any) -> dict[str, Any]:
        """What the model's `training_outputs` takes besides the images, by name, from the targets of this step."""
        ...

    def infer(self, apply: Callable[..., Any], images: Array, sizes: Array | None = None) -> Any:
        """What `metric` and `results` read of normalised images, with `apply` as the model's `method`.

        Args:
          apply: takes images, and options of the method by name.
          sizes: (B, 2) heights and widths of what `content` says; a validation's are those of its batch's "size".
        """
        ...

    def loss(self, outputs: Any, targets: Any, weight: Array) -> tuple[Losses, Array]:
        """The loss's parts, each summed over the examples times their weights, and the sum of the weights.

        The training minimises the sum of the parts; where there are several, each is logged.
        """
        ...

    def activate(self, outputs: Any) -> Array:
        """The outputs as an exported program gives them."""
        ...

    def outputs_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Outputs from which `activate` gives these (N, labels). Raises RequestError for a task that has none."""
        ...

    # What people see.

    def results(
        self, outputs: Any, sources: Sequence[str], sizes: Sequence[tuple[int, int]] | None = None, **options: Any
    ) -> list[Any]:
        """A `Result` of each picture.

        Args:
          outputs: of the pictures, on the host.
          sizes: heights and widths of the pictures as they came; None where they are those that `fit` gives.
          **options: those of `result_options`; `check_result_options` checks them.
        """
        ...

    def failure(self, source: str, error: str) -> Any:
        """The `Result` of a picture that could not be used."""
        ...

    def together(self, results: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        """Further files for all results, given as JSON, beside the table of their rows: contents by name."""
        ...

    def cells(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result's cells in a table, from its JSON, besides the picture's path and its error."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a dry run says about the task, by JSON key."""
        ...

    def headline(self, metrics: Mapping[str, float | None]) -> str:
        """A validation in a few words, the best measure first."""
        ...

    def sections(self, examined: Examined) -> list[Section]:
        """The report's sections about held-out examples."""
        ...

    def telling(self, examined: Examined) -> list[int]:
        """Positions in the source of the examples to look at first, such as the surest mistakes."""
        ...

    def truth(self, target: Any) -> str:
        """A record's target in words."""
        ...
