"""How a validation adds up: states that any number of batches, devices and processes give alike."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from crosscale.contracts import Array

State = Any  # a tree of arrays; what `init` gives, `update` and `merge` give too
Rows = Mapping[str, Array]  # per-example arrays, (B, ...) each
DeviceBatch = Mapping[str, Array]  # a batch's arrays by name, and "weight" (B,)


class Metric:
    """A validation's numbers, from a state that is summed over the batches.

    `update` runs inside jit on a whole batch, however many devices hold it. The engine merges the batches' states on
    the host, in float64, so that the result depends on neither their number nor their order beyond rounding.
    A metric that no sum can express (a ranking, a calibration) sets `collects` and reads the examples' rows.

    Attributes:
      collects: whether `compute` needs the rows of `collect`.
      targets: names of the batch's arrays that are kept beside the rows; None keeps all but the pictures.
    """

    collects: bool = False
    targets: tuple[str, ...] | None = None

    def check_best(self, name: str) -> None:
        """Raises RequestError for a measure that is not counted for this many labels; here none."""

    def init(self) -> State:
        """The state before the first example."""
        raise NotImplementedError

    def update(self, state: State, outputs: Any, batch: DeviceBatch) -> State:
        """The state with a batch added; examples of weight 0 change nothing. Pure."""
        raise NotImplementedError

    def collect(self, outputs: Any, batch: DeviceBatch) -> dict[str, Array]:
        """Each example's own record, (B, ...) arrays by name. Pure."""
        return {}

    def update_and_collect(self, state: State, outputs: Any, batch: DeviceBatch) -> tuple[State, dict[str, Array]]:
        """What `update` and `collect` give, for a metric that computes both from one thing."""
        return self.update(state, outputs, batch), self.collect(outputs, batch)

    def merge(self, total: State, new: State) -> State:
        """Two states as one, on the host."""
        return jax.tree.map(lambda a, b: np.asarray(a, np.float64) + np.asarray(b, np.float64), total, new)

    def compute(self, state: State, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The numbers by name; NaN where nothing was counted.

        Args:
          rows: of all examples in the order of their source, empty unless `collects`.
        """
        raise NotImplementedError
