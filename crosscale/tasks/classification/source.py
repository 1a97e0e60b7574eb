"""What a classification makes of the sources that it is given."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crosscale.contracts import LabelledSource
from crosscale.data.scan import entries, subfolders
from crosscale.data.table_rows import is_table
from crosscale.errors import RequestError


def label_order(found: Sequence[str], known: Sequence[str], place: str | Path) -> np.ndarray:
    """The data's labels -> the model's, by class name; the data may lack classes, but have no others.

    Raises RequestError for a class that the model does not know.
    """
    positions = {name: index for index, name in enumerate(known)}
    for name in found:
        if name not in positions:
            raise RequestError(
                f"{place}: the class '{name}' is not one of the {len(known)} that the model was trained for"
            )
    return np.array([positions[name] for name in found], np.int32)


def one_class_advice(source: LabelledSource) -> str:
    """Says that a source has only one class, and what was probably meant."""
    name = source.classes[0]
    if (table := getattr(source, "table", None)) is not None:
        return f"{table}: every label is '{name}'; is it the right column (task.label_column)?"
    root = getattr(source, "root", None)
    if not isinstance(root, Path):
        return f"the data has only one class, '{name}'"
    parts = Path(source[0].id).parts  # in a folder an id is the picture's path
    folder = root.joinpath(*parts[: parts.index(name) + 1])
    below = subfolders(folder)
    tables = sorted(entry.name for entry in entries(root) if is_table(entry.path))
    if len(below) > 1:
        return f"{root}: holds only one folder, '{name}', which holds others ({', '.join(below[:3])}): give {folder}"
    if tables:
        return (
            f"{root}: holds only one folder, '{name}', beside {tables[0]}: to learn that table's classes give "
            f"--data-dir {root / tables[0]}, and for numbers --task.name regression too"
        )
    return f"{root}: has only one class, '{name}'"
