"""RetinaNet on CrossFormer's pyramid, as the released detection code builds it."""

from dataclasses import fields

from flax import linen as nn

from crosscale.models.crossformer.detection_config import READ_LEVELS, RetinaNetConfig
from crosscale.models.crossformer.pyramid import CrossFormerPyramid
from crosscale.models.crossformer.segmentation_weights import backbone_rules, classifier_rules
from crosscale.models.detection import AnchorDetector
from crosscale.models.heads.pyramid import PyramidNeck
from crosscale.models.heads.retina import RetinaHead
from crosscale.models.model import ImageModel
from crosscale.weights.rules import Rules, conv

EXTRA_LEVELS = 2


class RetinaNetCrossFormer(RetinaNetConfig, CrossFormerPyramid, AnchorDetector):
    """RetinaNet (Lin et al., ICCV 2017) on CrossFormer or CrossFormer++: boxes with a class and a score.

    The fields of the backbone are those of `CrossFormer`, with other defaults for `img_size` and `num_classes`. The
    maps of strides 8, 16 and 32 are read, and two coarser ones made; 9 anchors stand on every cell.

    Attributes:
      num_classes: classes.
      neck_channels: of the feature pyramid and of the head.

    Raises:
      RequestError: at construction, for a configuration that cannot be built.
    """

    __repr__ = nn.Module.__repr__  # the config has one too

    def __post_init__(self) -> None:
        RetinaNetConfig.__post_init__(self)
        ImageModel.__post_init__(self)

    @property
    def config(self) -> RetinaNetConfig:
        return RetinaNetConfig(**{f.name: getattr(self, f.name) for f in fields(RetinaNetConfig)})

    def make_neck(self) -> nn.Module:
        return PyramidNeck(self.neck_channels, len(self.depths) - READ_LEVELS, EXTRA_LEVELS, self.dtype)

    def make_head(self) -> nn.Module:
        anchors = len(self.scales) * len(self.ratios)
        return RetinaHead(self.num_classes, anchors, self.neck_channels, dtype=self.dtype)

    def weight_rules(self) -> dict[str, Rules]:
        own = (
            *backbone_rules(),
            *conv("neck.lateral_convs.{i}.conv", "neck/lateral_{i}"),
            *conv("neck.fpn_convs.{i}.conv", "neck/output_{i}"),
            *conv("bbox_head.cls_convs.{i}.conv", "head/class_{i}"),
            *conv("bbox_head.reg_convs.{i}.conv", "head/box_{i}"),
            *conv("bbox_head.retina_cls", "head/classifier"),
            *conv("bbox_head.retina_reg", "head/boxes"),
        )
        return {"mmdet": own, **classifier_rules()}
