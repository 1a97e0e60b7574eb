"""What a detection assumes where its data is not at hand."""

from collections.abc import Sequence

from crosscale.data.declared import DeclaredSource

USUAL = 640  # pixels of a side
MOST = 100  # objects of a picture


class DeclaredObjects(DeclaredSource):
    """Says how many pictures and classes there would be."""

    most_objects = MOST
    has_masks = False
    category_ids: tuple[int, ...] = ()

    def __init__(self, classes: Sequence[str], length: int) -> None:
        super().__init__(classes, length)
        self.notes: tuple[str, ...] = ()

    def size(self, index: int) -> tuple[int, int]:
        """Height and width that are assumed of a picture."""
        return USUAL, USUAL

    def above(self, most: int) -> int:
        """How many pictures hold more objects than this."""
        return 0
