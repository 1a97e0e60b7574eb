"""Semantic FPN on CrossViT, through a simple pyramid of its finest map. Not from the paper, which only classifies."""

from dataclasses import dataclass, fields
from typing import Any

from flax import linen as nn

from crosscale.errors import RequestError
from crosscale.models.checks import check_counts
from crosscale.models.crossvit.attention_maps import attention_maps
from crosscale.models.crossvit.backbone import CrossViTBackbone
from crosscale.models.crossvit.config import CrossViTConfig
from crosscale.models.crossvit.description import by_stage, layer_of, position_tables
from crosscale.models.crossvit.weights import weight_rules
from crosscale.models.description import AttentionMaps, Layer
from crosscale.models.heads.semantic_fpn import SemanticFPNHead
from crosscale.models.heads.simple_pyramid import SimplePyramid
from crosscale.models.model import ImageModel
from crosscale.models.segmentation import SegmentationModel
from crosscale.models.segmentation_config import HeadFields
from crosscale.weights.positions import PositionTable
from crosscale.weights.rules import Dropped, Rule, Rules

_CLASSIFIER = "head/"


@dataclass(unsafe_hash=True)
class SemanticFPNCrossViTConfig(HeadFields, CrossViTConfig):
    """The fields of `SemanticFPNCrossViT`. Raises RequestError for anything that cannot be built."""

    num_classes: int = 150
    neck_channels: int = 256

    def __post_init__(self) -> None:
        CrossViTConfig.__post_init__(self)
        self.check_head(self.num_classes)
        check_counts(self, ("neck_channels",))
        if self.rescale == "center_crop":
            raise RequestError(
                "rescale='center_crop': the branches would see the centre alone, and every pixel needs a class; "
                "rescale='bicubic' works"
            )
        patch, grid, width = self.patch_size[self.finest], self.grids[self.finest], self.embed_dim[self.finest]
        if patch % 4 or min(grid) < 2 or width < 4:
            raise RequestError(
                f"branch {self.finest}: its map becomes one of four times the size and one of half: that takes a "
                f"patch_size of a multiple of 4, two patches a side and an embed_dim of 4 or more, not {patch}, "
                f"{grid[0]} x {grid[1]} and {width}"
            )

    @property
    def finest(self) -> int:
        """The branch whose map has the most cells."""
        return max(range(len(self.grids)), key=lambda b: self.grids[b][0] * self.grids[b][1])


class SemanticFPNCrossViT(SemanticFPNCrossViTConfig, SegmentationModel):
    """Semantic FPN's head on CrossViT: a logit of every class for every pixel.

    The paper has no such model. The finest branch's map becomes a pyramid as in ViTDet; the other branches reach it
    through the fusions alone. The fields of the backbone are those of `CrossViT`, with another default for
    `num_classes`. Pictures of any size are rescaled to the branches' own, so that a picture of another ratio is
    seen distorted. `rescale` is "bicubic", so that they see all of it. What is left over at the right and bottom
    where a side is no multiple of the patch, no branch sees: there the last cells' logits are repeated.

    Attributes:
      num_classes: classes, 1 to 255.
      norm: of the head, "batch" or "group".
      head_channels: of the head's convolutions.
      head_drop_rate: dropout of whole channels before the last layer, 0 <= rate < 1.
      neck_channels: of the pyramid's maps.

    Raises:
      RequestError: at construction, for a configuration that cannot be built.
    """

    __repr__ = nn.Module.__repr__  # the config has one too

    def __post_init__(self) -> None:
        SemanticFPNCrossViTConfig.__post_init__(self)
        ImageModel.__post_init__(self)

    @property
    def config(self) -> SemanticFPNCrossViTConfig:
        names = fields(SemanticFPNCrossViTConfig)
        return SemanticFPNCrossViTConfig(**{f.name: getattr(self, f.name) for f in names})

    @property
    def input_size(self) -> tuple[int, int]:
        height, width = max(self.img_size)
        return height, width

    @nn.nowrap
    def covered(self, size: tuple[Any, ...]) -> tuple[Any, ...]:
        c, b = self.config, self.finest
        sides = zip(size, c.grids[b], c.img_size[b], strict=True)
        return tuple(side * cells * c.patch_size[b] / seen for side, cells, seen in sides)

    def layer_of(self, name: str) -> Layer:
        return layer_of(name)

    def timm_layer_of(self, name: str) -> Layer:
        return by_stage(self.config, super().timm_layer_of(name))

    def attention_maps(self, size: tuple[int, int] | None = None) -> AttentionMaps:
        return attention_maps(self.config, size or self.input_size)

    def position_tables(self) -> dict[str, PositionTable]:
        return position_tables(self.config)

    def weight_rules(self) -> dict[str, Rules]:
        """The classifiers' files, whose heads a segmentation model does without."""
        return {scheme: tuple(map(_without_head, rules)) for scheme, rules in weight_rules(self.config).items()}

    def left_out(self) -> tuple[str, ...]:
        return ("head/branch_",)  # a classifier's

    def make_backbone(self) -> nn.Module:
        return CrossViTBackbone(self.config)

    def make_neck(self) -> nn.Module:
        c = self.config
        return SimplePyramid(c.neck_channels, c.finest, c.patch_size[c.finest], c.dtype)

    def make_head(self) -> nn.Module:
        c = self.config
        return SemanticFPNHead(c.num_classes, c.head_channels, c.norm, c.head_drop_rate, c.dtype)


def _without_head(rule: Rule | Dropped) -> Rule | Dropped:
    of_head = isinstance(rule, Rule) and rule.ours.startswith(_CLASSIFIER)
    return Dropped(rule.theirs) if of_head else rule
