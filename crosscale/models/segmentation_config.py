"""What the configurations of all segmentation models add to their backbone's fields."""

from dataclasses import dataclass
from typing import get_args

from crosscale.errors import RequestError
from crosscale.layers.conv_norm import NormKind
from crosscale.models.checks import check_choice, check_counts, check_rates

MOST_CLASSES = 255  # a mask is uint8, and 255 in it is ignored


@dataclass(unsafe_hash=True)
class HeadFields:
    """The head's fields, which each model class explains; `check_head` refuses what cannot be built."""

    norm: NormKind = "batch"
    head_channels: int = 128
    head_drop_rate: float = 0.1

    def check_head(self, num_classes: int) -> None:
        """Raises RequestError, naming the field."""
        check_choice(self, "norm", get_args(NormKind))
        if not 1 <= num_classes <= MOST_CLASSES:
            raise RequestError(
                f"num_classes={num_classes}: a segmentation has 1 to {MOST_CLASSES} classes, a mask's values"
            )
        check_counts(self, ("head_channels",))
        check_rates(self, ("head_drop_rate",))
