"""The configurations of the segmentation models on CrossFormer: the backbone's fields and the head's own."""

from dataclasses import dataclass
from typing import Any

from crosscale.errors import RequestError
from crosscale.models.checks import check_counts, listed, normalised
from crosscale.models.crossformer.config import CrossFormerConfig
from crosscale.models.segmentation_config import HeadFields


@dataclass(unsafe_hash=True)
class SegmentationConfig(HeadFields, CrossFormerConfig):
    """What both heads have. Raises RequestError for anything that cannot be built, naming the field."""

    img_size: Any = 512
    num_classes: int = 150

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_head(self.num_classes)


@dataclass(unsafe_hash=True)
class SemanticFPNConfig(SegmentationConfig):
    """The fields of `SemanticFPNCrossFormer`, which says what each means."""

    neck_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, ("neck_channels",))


@dataclass(unsafe_hash=True)
class UPerNetConfig(SegmentationConfig):
    """The fields of `UPerNetCrossFormer`, which says what each means."""

    head_channels: int = 512
    pool_scales: Any = (1, 2, 3, 6)
    aux_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        scales = listed("pool_scales", self.pool_scales)
        self.pool_scales = normalised("pool_scales", scales, len(scales), int)
        if not scales or min(self.pool_scales) < 1:
            raise RequestError(f"pool_scales={list(scales)}: give one number of bins per side or more, each 1 or more")
        check_counts(self, ("aux_channels",), least=0)
        if self.aux_channels and len(self.depths) < 2:
            raise RequestError(
                "aux_channels: the auxiliary head reads the last stage but one; give depths of two or more"
            )
