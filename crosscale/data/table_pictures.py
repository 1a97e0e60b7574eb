"""The pictures of a table with what is known of each, as every task that learns from a table reads them."""

import os
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np

from crosscale.contracts import Record
from crosscale.data.pictures import SEPARATOR, open_pictures
from crosscale.data.strings import Strings


class TablePictures:
    """Base of the sources that are tables.

    Attributes:
      root: what relative paths are relative to.
      paths: of the pictures, relative to `root` or absolute; of several in a row with "::" between them.
      targets: (N,) or (N, K), what is learnt of each; a source calls them by their own name too.
      weights: (N,) float64, how much each picture counts in training; None for all alike.
    """

    def __init__(self, root: Path, paths: Iterable[str], targets: np.ndarray, weights: np.ndarray | None) -> None:
        self.root = root
        self.paths = paths if isinstance(paths, Strings) else Strings.of(list(paths))
        self.targets = targets
        self.weights = weights

    @property
    def pictures(self) -> int:
        """How many pictures a row has."""
        if not len(self.paths) or SEPARATOR not in self.paths[0] or os.path.exists(self.root / self.paths[0]):
            return 1
        return self.paths[0].count(SEPARATOR) + 1

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path, target = self.paths[index], self.targets[index]
        return Record(path, open_pictures(self.root, path), int(target) if target.ndim == 0 else target)

    def record_id(self, index: int) -> str:
        """The picture's path, as the table has it."""
        return self.paths[index]

    def select(self, indices: np.ndarray) -> Self:
        """The same table with only these examples."""
        part = copy(self)
        part.paths = Strings.of([self.paths[int(index)] for index in indices])
        part.targets = self.targets[indices]
        part.weights = None if self.weights is None else self.weights[indices]
        return part
