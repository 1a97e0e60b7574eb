"""Classes of a labelled source renamed, merged, ignored, or numbered in another order."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from crosscale.contracts import LabelledSource, Record
from crosscale.errors import RequestError, did_you_mean


class Relabelled:
    """A source with some examples left out, or whose labels number other classes.

    Attributes:
      source: with its own labels.
      classes: names in the new order.
      rows: (N,) positions in `source`.
      labels: (N,) int32, the new ones.
      weights: (N,), where the source has them; see `crosscale.data.label_table.LabelTable`.
      notes: the source's.
    """

    def __init__(self, source: LabelledSource, classes: Sequence[str], order: np.ndarray) -> None:
        """
        Args:
          order: (classes of the source,) the new label of each old one, -1 for those that are left out.
        """
        found = order[labels_of(source)]
        self.source = source
        self.classes: Sequence[str] = tuple(classes)
        self.rows = np.flatnonzero(found >= 0)
        self.labels = found[self.rows].astype(np.int32)
        weights = getattr(source, "weights", None)
        self.weights = None if weights is None else weights[self.rows]
        self.notes: tuple[str, ...] = getattr(source, "notes", ())
        blocks = getattr(source, "blocks", None)
        if blocks is not None:
            self.blocks = np.searchsorted(self.rows, blocks)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return replace(self.source[int(self.rows[index])], target=int(self.labels[index]))

    def record_id(self, index: int) -> str:
        """The source's own; where it has none, the example's number."""
        row = int(self.rows[index])
        said = getattr(self.source, "record_id", None)
        return str(row) if said is None else str(said(row))

    def select(self, indices: np.ndarray) -> "Relabelled":
        """The same with only these examples, which must be sorted."""
        part = copy(self)
        part.rows, part.labels = self.rows[indices], self.labels[indices]
        part.weights = None if self.weights is None else self.weights[indices]
        if hasattr(self, "blocks"):
            part.blocks = np.searchsorted(indices, self.blocks)
        return part


def labels_of(source: Any) -> np.ndarray:
    """(N,) the source's labels; those of a source that does not hold them are read one by one."""
    labels = getattr(source, "labels", None)
    return np.array([source[i].target for i in range(len(source))], np.int32) if labels is None else labels


def map_classes(
    source: LabelledSource, mapping: Mapping[str, str | None], where: str, *, lenient: bool = False
) -> LabelledSource:
    """The source with its classes called as the mapping says; those that get the same name become one.

    The new classes are in the order of their first old ones.

    Args:
      mapping: old name -> new one, or None for a class whose pictures are left out. Classes it does not name stay.
      where: the data, for the error.
      lenient: names of classes that the source does not have are passed over.

    Raises:
      RequestError: a name is not one of the classes, or nothing is left.
    """
    if not mapping:
        return source
    for name in mapping:
        if name not in source.classes and not lenient:
            known = ", ".join(source.classes[:10]) + (", ..." if len(source.classes) > 10 else "")
            raise RequestError(
                f"task.class_map: '{name}' is not one of the classes of {where}"
                f"{did_you_mean(name, source.classes) or f'; they are {known}'}"
            )
    names = [mapping.get(name, name) for name in source.classes]
    classes = list(dict.fromkeys(name for name in names if name is not None))
    if not classes:
        raise RequestError(f"task.class_map: leaves out every class of {where}")
    order = np.array([-1 if name is None else classes.index(name) for name in names], np.int32)
    return Relabelled(source, classes, order)
