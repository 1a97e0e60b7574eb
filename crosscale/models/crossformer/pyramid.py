"""What every model that reads CrossFormer's pyramid of maps has in common, whatever its head."""

from typing import TYPE_CHECKING

from flax import linen as nn

from crosscale.models.crossformer.attention_maps import attention_maps
from crosscale.models.crossformer.backbone import CrossFormerBackbone
from crosscale.models.crossformer.config import CrossFormerConfig
from crosscale.models.crossformer.description import layer_of
from crosscale.models.description import AttentionMaps, Layer
from crosscale.models.model import ImageModel


class CrossFormerPyramid(ImageModel):
    """Base of the segmentation and detection families on CrossFormer: the backbone, and what follows from it."""

    if TYPE_CHECKING:

        @property
        def config(self) -> CrossFormerConfig: ...

    @property
    def input_size(self) -> tuple[int, int]:
        height, width = self.config.img_size
        return height, width

    def layer_of(self, name: str) -> Layer:
        """Every block of the backbone is a layer, as in a classifier; all above it keeps the whole rate."""
        return layer_of(name)

    def attention_maps(self, size: tuple[int, int] | None = None) -> AttentionMaps:
        return attention_maps(self.config, size or self.input_size)

    def weight_remarks(self) -> dict[str, str]:
        """The released weights are of one grouping of the long-distance cells; another runs them to other answers."""
        if self.config.grouping == "whole":
            return {}
        remark = (
            "the released weights of this kind were trained with grouping='whole', as the presets have it; this model "
            f"has '{self.config.grouping}'"
        )
        return dict.fromkeys(("mmdet", "mmseg"), remark)

    def left_out(self) -> tuple[str, ...]:
        return "backbone/norm/", "head/branch_0/"  # a classifier's

    def make_backbone(self) -> nn.Module:
        return CrossFormerBackbone(self.config, last_norm=False)
