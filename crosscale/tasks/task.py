"""What the engine asks of a task. Another task is another file here; the engine stays as it is."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from crosscale.contracts import Array

Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, count), both scalars


class Task(Protocol):
    """Everything that depends on what is learnt. All methods but `decode` are pure and run inside jit."""

    def augment(self, key: Array, images: Array, batch: Mapping[str, Array]) -> tuple[Array, Any]:
        """Normalised training images and their batch -> the images and the targets of this step."""
        ...

    def loss(self, outputs: Any, targets: Any, weight: Array) -> tuple[Array, Array]:
        """The summed loss of the examples, each times its weight, and the sum of the weights."""
        ...

    def metrics(self, outputs: Any, batch: Mapping[str, Array]) -> Metrics:
        """(sum, count) pairs on a validation batch; examples of weight 0 do not count."""
        ...

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What "best" means: of two validations the one with the larger tuple."""
        ...

    def decode(self, outputs: Any, classes: Sequence[str], k: int) -> list[Any]:
        """Readable results, one per example."""
        ...
