"""A source with only its size known: what a recipe is meant for, where its data is not at hand."""

from collections.abc import Sequence

from crosscale.contracts import Record
from crosscale.errors import RequestError


class DeclaredSource:
    """Says how many examples and classes there would be, and refuses to give one."""

    def __init__(self, classes: Sequence[str], length: int) -> None:
        self.classes: Sequence[str] = tuple(classes)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        raise RequestError("data.dir is not set: give --data-dir FOLDER (or digits)")
