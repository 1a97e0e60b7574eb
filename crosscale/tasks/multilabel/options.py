"""The recipe's keys of a multi-label classification."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from crosscale.data.table_rows import TableColumns
from crosscale.errors import RequestError
from crosscale.ranges import BELOW_ONE, NOT_NEGATIVE, check_ranges


@dataclass(frozen=True)
class MultiLabelOptions:
    """Any number of labels per picture."""

    name: Literal["multilabel"] = "multilabel"
    """What is learnt."""
    path_column: str | None = None
    """The table's column of paths; null is the first of path, image, file, filename."""
    label_columns: tuple[str, ...] = ()
    """One column of tags, or several of 0 and 1; empty is the one called label or tags, or all of 0 and 1."""
    separator: str = "|"
    """What stands between tags."""
    split_column: str | None = None
    """The table's column that says train or val; null is "split", where there is one."""
    weight_column: str | None = None
    """The table's column of how much each picture counts in training; null is "weight", where there is one."""
    class_map: dict[str, str | None] = field(default_factory=dict)
    """Labels under another name: old name to new one, several to one merges them, null leaves a label out."""
    loss: Literal["bce", "asymmetric"] = "bce"
    """Binary cross-entropy, or the asymmetric loss, for which labels that are easily seen to be missing count less."""
    gamma_positive: Annotated[float, NOT_NEGATIVE] = 0.0
    """The asymmetric loss's focusing of labels that are there."""
    gamma_negative: Annotated[float, NOT_NEGATIVE] = 4.0
    """The asymmetric loss's focusing of labels that are missing."""
    margin: Annotated[float, BELOW_ONE] = 0.05
    """In the asymmetric loss, probabilities of missing labels below it count for nothing."""

    def __post_init__(self) -> None:
        check_ranges("task", self)
        if not self.separator:
            raise RequestError("task.separator: is empty; give what stands between tags, such as '|'")
        for name, value in self.class_map.items():
            if not (value is None or (isinstance(value, str) and value)):
                raise RequestError(f"task.class_map: '{name}' is mapped to {value!r}; give a name in quotes, or null")

    @property
    def table(self) -> TableColumns:
        """The columns by what they are, except those of the labels."""
        return TableColumns(self.path_column, self.split_column, self.weight_column)
