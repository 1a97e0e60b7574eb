"""RetinaNet and Mask R-CNN on CrossFormer and CrossFormer++ for COCO's 80 classes, as rows.

Figures are those of the released code's README, of training for 12 epochs (1x). Its weights and its counts of
operations are of long-distance groups that span the whole map (`grouping="whole"`), unlike its later code. Of RetinaNet
on CrossFormer++-S it repeats CrossFormer-S's 40.8 million parameters and 282.0 G, which are not its own, and of the one
on CrossFormer++-B no count of operations is at hand.
"""

from crosscale.contracts import InputSpec
from crosscale.models.crossformer.segmentation_presets import backbone_options
from crosscale.models.presets import Preset, PublishedDetection

_SOURCE = "released code's README (detection, 1x)"
_SIZE = (800, 1216)  # what a picture of 3 : 2 is fed as: 800 x 1200, filled up to whole groups of cells

# variant: parameters, the same as published (millions), GMACs, AP of boxes and of masks
_Figures = dict[str, tuple[int, float | None, float | None, float, float | None]]
_RETINANET: _Figures = {
    "small": (40_824_958, 40.8, 282.0, 44.4, None),
    "base": (62_139_118, 62.1, 389.0, 46.2, None),
    "pp_small": (33_044_904, None, None, 45.1, None),
    "pp_base": (62_162_158, 62.2, None, 46.6, None),
}
_MASK_RCNN: _Figures = {
    "small": (50_160_762, 50.2, 301.0, 45.4, 41.4),
    "base": (71_474_922, 71.5, 407.9, 47.2, 42.7),
    "pp_small": (42_962_340, 43.0, 287.4, 46.4, 42.1),
    "pp_base": (71_497_962, 71.5, 408.0, 47.7, 43.2),
}


def _preset(name: str, variant: str, figures: tuple[int, float | None, float | None, float, float | None]) -> Preset:
    params, rounded, gmacs, box_ap, mask_ap = figures
    return Preset(
        name=name,
        config=backbone_options(variant),
        input_spec=InputSpec(size=_SIZE, crop_pct=1.0, interpolation="bilinear"),
        published=PublishedDetection(
            params, gmacs, source=_SOURCE, rounded_params=rounded, box_ap=box_ap, mask_ap=mask_ap
        ),
    )


MASK_RCNN = tuple(_preset(f"mask_rcnn_crossformer_{variant}", variant, row) for variant, row in _MASK_RCNN.items())
RETINANET = tuple(_preset(f"retinanet_crossformer_{variant}", variant, row) for variant, row in _RETINANET.items())
