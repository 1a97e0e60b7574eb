"""What most tasks answer alike: pictures of one size in, a vector out, results that are a few words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from PIL.Image import Image

from crosscale.contracts import Array, InputSpec
from crosscale.data.transforms import eval_transform
from crosscale.errors import RequestError
from crosscale.tasks.checks import check_test_options


class ChoosesNothing:
    """Answers of a task for which neither a validation nor the classes' sizes decide anything."""

    exports_inferred: ClassVar[bool] = False

    def training_options(self, targets: Any) -> dict[str, Any]:
        """None: the model learns from the pictures alone."""
        return {}

    def measuring(self, source: Any) -> Self:
        """As it is: a batch has all that the metric needs."""
        return self

    def validated(self, metrics: Mapping[str, float]) -> Self:
        """As it is: nothing is chosen by a validation."""
        return self

    def check_calibration(self) -> None:
        """Refused."""
        raise RequestError("this run has nothing to calibrate: only a classification has probabilities of classes")

    def calibrated(
        self,
        outputs: np.ndarray,
        targets: Mapping[str, np.ndarray],
        *,
        precision: float | None = None,
        coverage: float | None = None,
    ) -> Any:
        """Refused."""
        self.check_calibration()

    def outputs_of(self, probabilities: np.ndarray) -> np.ndarray:
        """Refused."""
        task: Any = self
        own = ", ".join(f"--task.{name}" for name in task.test_options)
        raise RequestError(
            f"the task {task.name} has no probabilities of classes that could be averaged (--tta, several --run)"
            f"{f'; it has {own}' if own else ''}"
        )

    def together(self, results: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        """None: the table of rows says it all."""
        return {}

    def cells(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """All but the picture's name and its error."""
        return {name: value for name, value in result.items() if name not in ("source", "error")}

    def groups(self, source: Any) -> np.ndarray | None:
        """None: training sees the examples as often as they occur."""
        return None


class PlainTask(ChoosesNothing):
    """Answers of a task whose pictures have the input's size and whose outputs are those of the model's `__call__`."""

    method: ClassVar[str | None] = None
    served_schema: ClassVar[Mapping[str, Any]] = {}
    test_options: ClassVar[tuple[str, ...]] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def input_spec(self, spec: InputSpec) -> InputSpec:
        """As it is."""
        return spec

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """As it is. Raises RequestError for any option."""
        task: Any = self
        check_test_options(task, options)
        return self

    def infer(self, apply: Callable[..., Any], images: Array, sizes: Array | None = None) -> Any:
        """The model's outputs."""
        return apply(images)

    def fit(self, spec: InputSpec, img: Image) -> np.ndarray:
        """Resized and cut to the input's size."""
        return np.asarray(eval_transform(spec)(img))

    def content(self, spec: InputSpec, size: tuple[int, int]) -> tuple[int, int] | None:
        """None: nothing fills up."""
        return None


class PlainResult:
    """Answers of a result that takes a few words."""

    def files(self, picture: Image) -> dict[str, bytes]:
        """None."""
        return {}

    def attachments(self) -> dict[str, Any]:
        """None."""
        return {}
