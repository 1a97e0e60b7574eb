"""Cross-validation: a source cut into folds of equal size, each of which is held out once (Kohavi, 1995).

The cutting is scikit-learn's: a fold has its share of each class (`StratifiedKFold`), and pictures that belong
together, such as those of one patient, are all in one fold (`StratifiedGroupKFold`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from crosscale.data.class_map import Relabelled
from crosscale.data.subset import strata
from crosscale.data.table_rows import read_table
from crosscale.errors import RequestError


@dataclass(frozen=True)
class Fold:
    """One of several.

    Attributes:
      count: how many there are, 2 at least.
      number: which of them is held out, 1..count.
      by: a column of the data's table; pictures with the same value are in the same fold. None for each by itself.
      path_column: of that table; None recognises it.
    """

    count: int
    number: int
    by: str | None = None
    path_column: str | None = None


def cut(source: Any, fold: Fold, seed: int) -> tuple[Any, Any]:
    """(what is trained on, what is held out) of a source that has `select`; the union is the whole source.

    Raises:
      RequestError: scikit-learn is missing, there is no such column, or there are too few pictures or groups.
    """
    if find_spec("sklearn") is None:
        raise RequestError("data.folds are cut with scikit-learn, which is missing: pip install 'crosscale[digits]'")
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    classes = strata(source)
    groups = None if fold.by is None else _groups(source, fold.by, fold.path_column)
    units, what = (len(source), "pictures") if groups is None else (len(set(groups)), f"values of '{fold.by}'")
    if units < fold.count:
        raise RequestError(f"data.folds={fold.count}: there are only {units} {what} to share out")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(fold.count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on a class with fewer pictures than folds, which some folds lack
        try:
            parts = list(splitter.split(np.zeros(len(source)), classes, groups))
        except ValueError:  # no class has as many pictures as there are folds
            most = int(np.unique(classes, return_counts=True)[1].max())
            raise RequestError(
                f"data.folds={fold.count}: the commonest class has only {most} pictures; {most} folds at most"
            ) from None
    train, held_out = parts[fold.number - 1]
    if not len(held_out):
        raise RequestError(f"data.folds={fold.count}: nothing is left for fold {fold.number}; use fewer")
    return source.select(np.sort(train)), source.select(np.sort(held_out))


def _groups(source: Any, column: str, path_column: str | None) -> Sequence[str]:
    """For each example what the column of its table says. Raises RequestError."""
    inner = source.source if isinstance(source, Relabelled) else source
    rows = source.rows if isinstance(source, Relabelled) else range(len(source))
    file = getattr(inner, "table", None)
    if file is None or not hasattr(inner, "paths"):
        raise RequestError(f"data.folds_by={column}: is for a table of pictures, and the data is not one")
    table = read_table(file, "labels")
    place = table.column(column)
    assert place is not None
    first: dict[str, str] = {}
    for row, path in zip(table.rows, table.paths(table.path_column(path_column)), strict=True):
        first.setdefault(path, row.text(place))
    return [first[inner.paths[int(row)]] for row in rows]
