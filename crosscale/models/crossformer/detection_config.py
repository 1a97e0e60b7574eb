"""The configurations of the detectors on CrossFormer: the backbone's fields and the heads' own."""

from dataclasses import dataclass
from typing import Any

from crosscale.errors import RequestError
from crosscale.models.checks import check_counts
from crosscale.models.crossformer.config import CrossFormerConfig

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
        _check(self, ("neck_channels",))
        if len(self.depths) < READ_LEVELS:
            raise RequestError(f"depths={list(self.depths)}: the pyramid reads {READ_LEVELS} stages or more")


@dataclass(unsafe_hash=True)
class MaskRCNNConfig(CrossFormerConfig):
    """The fields of `MaskRCNNCrossFormer`, which says what each means.

    Raises RequestError for anything that cannot be built, naming the field.
    """

    img_size: Any = (800, 1216)
    num_classes: int = 80
    neck_channels: int = 256
    fc_channels: int = 1024
    mask_channels: int = 256
    proposals_before_nms: int = 1000
    proposals: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, ("neck_channels", "fc_channels", "mask_channels", "proposals_before_nms", "proposals"))


def _check(config: Any, counts: tuple[str, ...]) -> None:
    """Raises RequestError unless there is a class and each of `counts` is 1 or more."""
    if config.num_classes < 1:
        raise RequestError(f"num_classes={config.num_classes}: a detector has one class or more")
    check_counts(config, counts)
