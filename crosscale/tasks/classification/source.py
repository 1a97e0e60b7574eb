"""A labelled source seen with another order of the classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crosscale.contracts import LabelledSource, Record
from crosscale.errors import RequestError


@dataclass(frozen=True)
class Relabelled:
    """A source whose labels count the classes in another order.

    Attributes:
      source: with its own labels.
      classes: names in the new order.
      order: (classes of the source,) the new label of each old one.
    """

    source: LabelledSource
    classes: Sequence[str]
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        return replace(record, target=int(self.order[record.target]))


def label_order(found: Sequence[str], known: Sequence[str], place: str | Path) -> np.ndarray:
    """The data's labels -> the model's, by class name; the data may lack classes, but have no others.

    Raises RequestError for a class that the model does not know.
    """
    positions = {name: index for index, name in enumerate(known)}
    for name in found:
        if name not in positions:
            raise RequestError(
                f"{place}: the class '{name}' is none of the {len(known)} that the model was trained for"
            )
    return np.array([positions[name] for name in found], np.int32)
