"""From a record to the arrays of one example, for every task whose target is one array per picture."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from crosscale.contracts import InputSpec, Record
from crosscale.data.augment import Augment
from crosscale.data.fast import fast_train_transform
from crosscale.data.reading import read_picture
from crosscale.data.transforms import eval_transform, train_transform

Decode = Literal["exact", "fast"]


@dataclass(frozen=True)
class Target:
    """The array that a record's target becomes.

    Attributes:
      name: in the batch.
      dtype: NumPy's name of its type.
      shape: of one example's.
    """

    name: str = "label"
    dtype: str = "int32"
    shape: tuple[int, ...] = ()


LABEL = Target()


class ImageExamples:
    """A picture, prepared for the model, and its target."""

    def __init__(
        self, spec: InputSpec, augment: Augment | None = None, *, decode: Decode = "exact", target: Target = LABEL
    ) -> None:
        """
        Args:
          spec: the size and channels of the pictures.
          augment: of training; None prepares for validation alone.
          decode: pixels of training: "exact" gives Pillow's, "fast" those of `crosscale.data.fast`.
          target: what the records' targets are.

        Raises:
          RequestError: the spec cannot work, or a library that "fast" needs is not installed.
        """
        self.spec = spec
        self.target = target
        self._evaluate = eval_transform(spec)
        exact = decode == "exact"
        self._fast = fast_train_transform(spec, augment) if augment is not None and not exact else None
        self._exact = train_transform(spec, augment) if augment is not None and exact else None

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The augmented picture and the target. Raises BadImage."""
        if self._fast is not None:
            return self._arrays(self._fast(record, rng), record.target)
        assert self._exact is not None, "made without an augmentation"
        return self._arrays(self._exact(self._decoded(record), rng), record.target)

    def validation(self, record: Record) -> dict[str, np.ndarray]:
        """The picture through `eval_transform`, and the target. Raises BadImage."""
        return self._arrays(self._evaluate(self._decoded(record)), record.target)

    def blank(self) -> dict[str, np.ndarray]:
        """Zeros."""
        return self._arrays(
            np.zeros((*self.spec.size, self.spec.channels), self.spec.dtype), np.zeros(self.target.shape)
        )

    def _arrays(self, image: np.ndarray, target: Any) -> dict[str, np.ndarray]:
        return {"image": image, self.target.name: np.asarray(target, self.target.dtype)}

    def _decoded(self, record: Record) -> Any:
        return read_picture(self.spec, record.image, record.id)
