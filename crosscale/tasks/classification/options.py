"""The recipe's keys of a classification."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from crosscale.data.table_rows import TableColumns
from crosscale.errors import RequestError, did_you_mean
from crosscale.ranges import BELOW_ONE, NOT_NEGATIVE, check_ranges

ClassWeights = Literal["auto", "inverse", "effective"] | tuple[float, ...] | dict[str, float] | None


@dataclass(frozen=True)
class ClassificationOptions:
    """One label per picture."""

    name: Literal["classification"] = "classification"
    """What is learnt."""
    label_smoothing: Annotated[float, BELOW_ONE] = 0.1
    """Share of each target that is spread over all classes."""
    path_column: str | None = None
    """A table's column of paths; null is the first of path, image, file, filename."""
    label_column: str | None = None
    """A table's column of classes; null is the first of label, class, target, category, or the only one left."""
    split_column: str | None = None
    """A table's column that says train or val; null is "split", where there is one."""
    weight_column: str | None = None
    """A table's column of how much each picture counts in training; null is "weight", where the table is of classes."""
    class_map: dict[str, str | None] = field(default_factory=dict)
    """Classes under another name: old name to new one, several to one merges them, null leaves a class out."""
    class_weights: ClassWeights = None
    """A weight per class in the loss: inverse to their pictures, by the effective number of these (effective, or auto),
    or given, in label order or by name; null weighs all alike."""
    sampling: Literal["natural", "balanced"] = "natural"
    """How often training sees a class: as often as it has pictures, or all classes equally often."""
    focal_gamma: Annotated[float, NOT_NEGATIVE] = 0.0
    """Above 0 the loss is focal: pictures of which the model is sure count less."""

    def __post_init__(self) -> None:
        check_ranges("task", self)
        for name, value in self.class_map.items():
            if not (value is None or (isinstance(value, str) and value)):
                raise RequestError(f"task.class_map: '{name}' is mapped to {value!r}; give a name in quotes, or null")
        weights = self.class_weights
        given: Any = weights.values() if isinstance(weights, dict) else weights if isinstance(weights, tuple) else ()
        if not all(isinstance(weight, int | float) and 0 < weight < float("inf") for weight in given):
            shown = dict(weights) if isinstance(weights, dict) else list(given)
            raise RequestError(f"task.class_weights={shown}: every weight must be a positive number")

    @property
    def table(self) -> TableColumns:
        """The columns by what they are."""
        return TableColumns(self.path_column, self.split_column, self.weight_column, self.label_column)


def weights_of_classes(wanted: ClassWeights, classes: tuple[str, ...], counts: np.ndarray) -> tuple[float, ...] | None:
    """The classes' weights in the loss, with a mean of 1 over the training pictures; None for all alike.

    "inverse" is 1 / n of a class of n pictures. "effective" is (1 - b) / (1 - b^n) with b = 1 - 1 / N, N being all
    pictures (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, eq. 2): like the
    inverse for rare classes, and flatter for common ones.

    Args:
      counts: (classes,) training pictures of each.

    Raises:
      RequestError: the weights that are given are not of these classes.
    """
    if wanted is None:
        return None
    several = np.maximum(counts, 1).astype(np.float64)  # a class without pictures weighs like one with a single one
    if isinstance(wanted, dict):
        for name in [*wanted, *classes]:
            if name not in classes:
                raise RequestError(f"task.class_weights: '{name}' is no class of the data{did_you_mean(name, classes)}")
            if name not in wanted:
                raise RequestError(f"task.class_weights: has no weight for the class '{name}'")
        raw = np.array([wanted[name] for name in classes], np.float64)
    elif isinstance(wanted, tuple):
        if len(wanted) != len(classes):
            raise RequestError(f"task.class_weights: {len(wanted)} weights for {len(classes)} classes; one per class")
        raw = np.array(wanted, np.float64)
    elif wanted == "inverse":
        raw = 1 / several
    else:
        total = max(float(several.sum()), 2.0)
        raw = 1 / (total * -np.expm1(several * np.log1p(-1 / total)))
    return tuple(float(weight) for weight in raw * several.sum() / (raw * several).sum())
