"""What the configurations of all segmentation models add to their backbone's fields."""

from dataclasses import dataclass
from typing import get_args

from crosscale.errors import RequestError, did_you_mean
from crosscale.layers.conv_norm import NormKind
from crosscale.models.model import check_numbers

MOST_CLASSES = 255  # a mask is uint8, and 255 in it is ignored


@dataclass(unsafe_hash=True)
class HeadFields:
    """The head's fields, which each model class explains; `check_head` refuses what cannot be built."""

    norm: NormKind = "batch"
    head_channels: int = 128
    head_drop_rate: float = 0.1

    def check_head(self, num_classes: int) -> None:
        """Raises RequestError, naming the field."""
        if self.norm not in (choices := get_args(NormKind)):
            hint = did_you_mean(str(self.norm), choices)
            raise RequestError(f"norm={self.norm!r} is not one of {', '.join(choices)}{hint}")
        if not 1 <= num_classes <= MOST_CLASSES:
            raise RequestError(
                f"num_classes={num_classes}: a segmentation has 1 to {MOST_CLASSES} classes, a mask's values"
            )
        self.check_channels("head_channels")
        check_numbers(self, (), ("head_drop_rate",))
        if not 0 <= self.head_drop_rate < 1:
            raise RequestError(f"head_drop_rate={self.head_drop_rate} is not in 0 <= rate < 1")

    def check_channels(self, name: str, least: int = 1) -> None:
        """Raises RequestError unless the field is a whole number of at least `least`."""
        check_numbers(self, (name,), ())
        if getattr(self, name) < least:
            raise RequestError(f"{name}={getattr(self, name)} must be {least} or more")
