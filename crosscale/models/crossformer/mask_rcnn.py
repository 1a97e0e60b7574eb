"""Mask R-CNN on CrossFormer's pyramid, as the released detection code builds it."""

from dataclasses import fields

import numpy as np
from flax import linen as nn

from crosscale.models.crossformer.detection_config import MaskRCNNConfig
from crosscale.models.crossformer.pyramid import CrossFormerPyramid
from crosscale.models.crossformer.segmentation_weights import backbone_rules, classifier_rules
from crosscale.models.heads.pyramid import PyramidNeck
from crosscale.models.heads.regions import BOX_SIDE, RegionHead
from crosscale.models.model import ImageModel
from crosscale.models.region_detection import RegionDetector
from crosscale.weights.rules import Layout, Rule, Rules, conv, dense


class MaskRCNNCrossFormer(MaskRCNNConfig, CrossFormerPyramid, RegionDetector):
    """Mask R-CNN (He et al., ICCV 2017) on CrossFormer or CrossFormer++: boxes with a class, a score and a mask.

    The fields of the backbone are those of `CrossFormer`, with other defaults for `img_size` and `num_classes`. All
    maps are read, and a coarser one made for the proposals; 3 anchors stand on every cell.

    Attributes:
      num_classes: classes.
      neck_channels: of the feature pyramid and of the proposals' head.
      fc_channels: of the box head's two layers.
      mask_channels: of the mask head's convolutions.
      proposals_before_nms: the best boxes of a level, of which those that overlap a better one are left out.
      proposals: of these, boxes of a picture that the box head reads, at most.

    Raises:
      RequestError: at construction, for a configuration that cannot be built.
    """

    __repr__ = nn.Module.__repr__  # the config has one too

    def __post_init__(self) -> None:
        MaskRCNNConfig.__post_init__(self)
        ImageModel.__post_init__(self)

    @property
    def config(self) -> MaskRCNNConfig:
        return MaskRCNNConfig(**{f.name: getattr(self, f.name) for f in fields(MaskRCNNConfig)})

    def make_neck(self) -> nn.Module:
        return PyramidNeck(self.neck_channels, thinned_levels=1, dtype=self.dtype)

    def make_head(self) -> RegionHead:
        return RegionHead(
            self.num_classes,
            self.neck_channels,
            self.fc_channels,
            self.mask_channels,
            self.proposals_before_nms,
            self.proposals,
            self.dtype,
        )

    def weight_rules(self) -> dict[str, Rules]:
        return {"mmdet": (*backbone_rules(), *MMDET), **classifier_rules()}


def _flat_to_ours(weight: np.ndarray) -> np.ndarray:
    """(features, channels * 7 * 7) of an input in the order channel, row, column -> (7 * 7 * channels, features)."""
    features = len(weight)
    return weight.reshape(features, -1, BOX_SIDE**2).transpose(2, 1, 0).reshape(-1, features)


def _flat_to_theirs(kernel: np.ndarray) -> np.ndarray:
    features = kernel.shape[1]
    return kernel.reshape(BOX_SIDE**2, -1, features).transpose(2, 1, 0).reshape(features, -1)


FLAT_MAP = Layout(_flat_to_ours, _flat_to_theirs)
TRANSPOSED_CONV = Layout(lambda w: w.transpose(2, 3, 0, 1), lambda w: w.transpose(2, 3, 0, 1))  # IOHW <-> HWIO

# Names of everything above the backbone in mmdetection.
MMDET: Rules = (
    *conv("neck.lateral_convs.{i}.conv", "neck/lateral_{i}"),
    *conv("neck.fpn_convs.{i}.conv", "neck/output_{i}"),
    *conv("rpn_head.rpn_conv", "head/anchors/conv"),
    *conv("rpn_head.rpn_cls", "head/anchors/classifier"),
    *conv("rpn_head.rpn_reg", "head/anchors/boxes"),
    Rule("roi_head.bbox_head.shared_fcs.0.weight", "head/boxes/dense_0/kernel", FLAT_MAP),
    Rule("roi_head.bbox_head.shared_fcs.0.bias", "head/boxes/dense_0/bias"),
    *dense("roi_head.bbox_head.shared_fcs.1", "head/boxes/dense_1"),
    *dense("roi_head.bbox_head.fc_cls", "head/boxes/classifier"),
    *dense("roi_head.bbox_head.fc_reg", "head/boxes/boxes"),
    *conv("roi_head.mask_head.convs.{i}.conv", "head/masks/conv_{i}"),
    Rule("roi_head.mask_head.upsample.weight", "head/masks/upsample/kernel", TRANSPOSED_CONV),
    Rule("roi_head.mask_head.upsample.bias", "head/masks/upsample/bias"),
    *conv("roi_head.mask_head.conv_logits", "head/masks/classifier"),
)
