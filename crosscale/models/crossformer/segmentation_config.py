"""The configurations of the segmentation models on CrossFormer: the backbone's fields and the head's own."""

from dataclasses import dataclass
from typing import Any, get_args

from crosscale.errors import RequestError, did_you_mean
from crosscale.layers.conv_norm import NormKind
from crosscale.models.crossformer.config import CrossFormerConfig
from crosscale.models.model import check_numbers, listed, normalised

MOST_CLASSES = 255  # a mask is uint8, and 255 in it is ignored


@dataclass(unsafe_hash=True)
class SegmentationConfig(CrossFormerConfig):
    """What both heads have. Raises RequestError for anything that cannot be built, naming the field."""

    img_size: Any = 512
    num_classes: int = 150
    norm: NormKind = "batch"
    head_channels: int = 128
    head_drop_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in (choices := get_args(NormKind)):
            hint = did_you_mean(str(self.norm), choices)
            raise RequestError(f"norm={self.norm!r} is none of {', '.join(choices)}{hint}")
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise RequestError(
                f"num_classes={self.num_classes}: a segmentation has 1 to {MOST_CLASSES} classes, a mask's values"
            )
        self._check_channels("head_channels")
        check_numbers(self, (), ("head_drop_rate",))
        if not 0 <= self.head_drop_rate < 1:
            raise RequestError(f"head_drop_rate={self.head_drop_rate} is not in 0 <= rate < 1")

    def _check_channels(self, name: str, least: int = 1) -> None:
        check_numbers(self, (name,), ())
        if getattr(self, name) < least:
            raise RequestError(f"{name}={getattr(self, name)} must be {least} or more")


@dataclass(unsafe_hash=True)
class SemanticFPNConfig(SegmentationConfig):
    """The fields of `SemanticFPNCrossFormer`, which says what each means."""

    neck_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_channels("neck_channels")


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
        self._check_channels("aux_channels", 0)
        if self.aux_channels and len(self.depths) < 2:
            raise RequestError(
                "aux_channels: the auxiliary head reads the last stage but one; give depths of two or more"
            )
