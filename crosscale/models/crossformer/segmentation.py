"""Semantic FPN and UPerNet on CrossFormer's pyramid, as the released segmentation code builds them."""

from dataclasses import fields
from typing import TYPE_CHECKING

from flax import linen as nn

from crosscale.models.crossformer.description import open_sizes
from crosscale.models.crossformer.pyramid import CrossFormerPyramid
from crosscale.models.crossformer.segmentation_config import SegmentationConfig, SemanticFPNConfig, UPerNetConfig
from crosscale.models.crossformer.segmentation_weights import classifier_rules, semantic_fpn_rules, upernet_rules
from crosscale.models.description import OpenSizes
from crosscale.models.heads.pyramid import PyramidNeck
from crosscale.models.heads.semantic_fpn import SemanticFPNHead
from crosscale.models.heads.upernet import AuxiliaryHead, UPerNetHead
from crosscale.models.model import ImageModel
from crosscale.models.segmentation import SegmentationModel
from crosscale.weights.rules import Rules


class CrossFormerSegmentation(CrossFormerPyramid, SegmentationModel):
    """What the segmentation families on CrossFormer have in common."""

    if TYPE_CHECKING:

        @property
        def config(self) -> SegmentationConfig: ...

    def open_sizes(self) -> OpenSizes:
        return open_sizes(self.config)


class SemanticFPNCrossFormer(SemanticFPNConfig, CrossFormerSegmentation):
    """Semantic FPN on CrossFormer or CrossFormer++: a logit of every class for every pixel.

    The fields of the backbone are those of `CrossFormer`, with other defaults for `img_size` and `num_classes`.

    Attributes:
      num_classes: classes, 1 to 255.
      norm: of the head, "batch" or "group".
      head_channels: of the head's convolutions.
      head_drop_rate: dropout of whole channels before the last layer, 0 <= rate < 1.
      neck_channels: of the feature pyramid between the backbone and the head.

    Raises:
      RequestError: at construction, for a configuration that cannot be built.
    """

    __repr__ = nn.Module.__repr__  # the config has one too

    def __post_init__(self) -> None:
        SemanticFPNConfig.__post_init__(self)
        ImageModel.__post_init__(self)

    @property
    def config(self) -> SemanticFPNConfig:
        return SemanticFPNConfig(**{f.name: getattr(self, f.name) for f in fields(SemanticFPNConfig)})

    def make_neck(self) -> nn.Module:
        return PyramidNeck(self.neck_channels, dtype=self.dtype)

    def make_head(self) -> nn.Module:
        return SemanticFPNHead(self.num_classes, self.head_channels, self.norm, self.head_drop_rate, self.dtype)

    def weight_rules(self) -> dict[str, Rules]:
        return {"mmseg": semantic_fpn_rules(self.norm, max(1, len(self.depths) - 1)), **classifier_rules()}


class UPerNetCrossFormer(UPerNetConfig, CrossFormerSegmentation):
    """UPerNet on CrossFormer or CrossFormer++: a logit of every class for every pixel.

    The fields of the backbone are those of `CrossFormer`, with other defaults for `img_size` and `num_classes`.

    Attributes:
      num_classes: classes, 1 to 255.
      norm: of the heads, "batch" or "group".
      head_channels: of the head's convolutions.
      head_drop_rate: dropout of whole channels before the last layers, 0 <= rate < 1.
      pool_scales: bins per side of the last map's pooled copies.
      aux_channels: of the auxiliary head on the last stage but one, which training alone uses; 0 is none.

    Raises:
      RequestError: at construction, for a configuration that cannot be built.
    """

    __repr__ = nn.Module.__repr__  # the config has one too

    def __post_init__(self) -> None:
        UPerNetConfig.__post_init__(self)
        ImageModel.__post_init__(self)

    @property
    def config(self) -> UPerNetConfig:
        return UPerNetConfig(**{f.name: getattr(self, f.name) for f in fields(UPerNetConfig)})

    def make_head(self) -> nn.Module:
        c = self.config
        return UPerNetHead(c.num_classes, c.head_channels, c.pool_scales, c.norm, c.head_drop_rate, c.dtype)

    def make_auxiliary_head(self) -> nn.Module | None:
        c = self.config
        if not c.aux_channels:
            return None
        return AuxiliaryHead(c.num_classes, c.aux_channels, -2, c.norm, c.head_drop_rate, c.dtype)

    def left_out(self) -> tuple[str, ...]:
        own = super().left_out()
        return own if self.aux_channels else (*own, "auxiliary_head/")

    def weight_rules(self) -> dict[str, Rules]:
        return {"mmseg": upernet_rules(self.norm, bool(self.aux_channels)), **classifier_rules()}
