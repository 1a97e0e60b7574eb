"""The configurations of the detectors on CrossFormer: the backbone's fields and the heads' own."""

from dataclasses import dataclass
from typing import Any

from crosscale.errors import RequestError
from crosscale.models.crossformer.config import CrossFormerConfig
from crosscale.models.model import check_numbers

READ_LEVELS = 3  # of the backbone's maps, the coarsest


@dataclass(unsafe_hash=True)
class RetinaNetConfig(CrossFormerConfig):
    """The fields of `RetinaNetCrossFormer`, which says what each means.

    Raises RequestError for anything that cannot be built, naming the field.
    """

    img_size: Any = (800, 1216)
    num_classes: int = 80
    neck_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 1:
            raise RequestError(f"num_classes={self.num_classes}: a detector has one class or more")
        check_numbers(self, ("neck_channels",), ())
        if self.neck_channels < 1:
            raise RequestError(f"neck_channels={self.neck_channels} must be 1 or more")
        if len(self.depths) < READ_LEVELS:
            raise RequestError(f"depths={list(self.depths)}: the pyramid reads {READ_LEVELS} stages or more")
