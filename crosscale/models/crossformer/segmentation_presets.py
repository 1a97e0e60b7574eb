"""Semantic FPN and UPerNet on CrossFormer and CrossFormer++ for ADE20K's 150 classes, as rows.

Figures are those of the released code's README. Its weights and its counts of operations are of long-distance groups
that span the whole map (`grouping="whole"`), unlike its later code. Semantic FPN's groups have 14 cells in the first
two stages. The base model's count says so (320.1 G; 331.3 G with 7), where its configuration names 7, and
pp_base's count says 7 (331.1 G; 320 G with 14). No tiny, pp_large and pp_huge was published: they are the same heads
on these backbones.
"""

from typing import Any

from crosscale.contracts import InputSpec
from crosscale.models.presets import Preset, PublishedSegmentation

_SOURCE = "released code's README (segmentation)"
_SIZE = 512  # of the crops in training

# variant: width, depths, first stage's heads, stochastic depth
BACKBONES: dict[str, tuple[int, tuple[int, ...], int, float]] = {
    "tiny": (64, (1, 1, 8, 6), 2, 0.1),
    "small": (96, (2, 2, 6, 2), 3, 0.2),
    "base": (96, (2, 2, 18, 2), 3, 0.3),
    "large": (128, (2, 2, 18, 2), 4, 0.5),
    "pp_small": (64, (2, 2, 18, 2), 2, 0.2),
    "pp_base": (96, (2, 2, 18, 2), 3, 0.3),
    "pp_large": (128, (2, 2, 18, 2), 4, 0.5),
    "pp_huge": (128, (6, 6, 18, 2), 4, 0.5),
}
# variant: parameters, the same as published (millions), GMACs, mIoU at one scale and at several
_Figures = dict[str, tuple[int, float | None, float | None, float | None, float | None]]
_SEMANTIC_FPN: _Figures = {
    "tiny": (31_513_032, None, None, None, None),
    "small": (34_260_000, 34.3, 209.8, 46.4, None),
    "base": (55_574_160, 55.6, 320.1, 48.0, None),
    "large": (95_440_158, 95.4, 482.7, 49.1, None),
    "pp_small": (27_061_578, 27.1, 199.5, 47.4, None),
    "pp_base": (55_597_200, 55.6, 331.1, 48.6, None),
    "pp_large": (95_470_878, None, None, None, None),
    "pp_huge": (99_431_918, None, None, None, None),
}
_UPERNET: _Figures = {
    "tiny": (57_570_398, None, None, None, None),
    "small": (62_308_022, 62.3, 979.5, 47.6, 48.4),
    "base": (83_622_182, 83.6, 1089.7, 49.7, 50.6),
    "large": (125_478_836, 125.5, 1257.8, 50.4, 51.4),
    "pp_small": (53_118_944, 53.1, 963.5, 49.4, 50.8),
    "pp_base": (83_645_222, 83.7, 1089.8, 50.7, 51.0),
    "pp_large": (125_509_556, None, None, None, None),
    "pp_huge": (129_470_596, None, None, None, None),
}


_SEVENS = {"group_size": (7, 7, 7, 7), "interval": (8, 4, 2, 1)}
_FOURTEENS = {"group_size": (14, 14, 7, 7), "interval": (16, 8, 2, 1)}


def backbone_options(variant: str, **groups: Any) -> dict[str, Any]:
    """Constructor fields of a backbone as the released segmenters and detectors have it, with those of its groups."""
    embed_dim, depths, heads, drop_path_rate = BACKBONES[variant]
    return {
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": tuple(heads * 2**stage for stage in range(len(depths))),
        "drop_path_rate": drop_path_rate,
        "grouping": "whole",
        **groups,
        **({"use_acl": True} if variant.startswith("pp_") else {}),
    }


def _preset(name: str, variant: str, figures: tuple[Any, ...], groups: dict[str, Any]) -> Preset:
    params, rounded, gmacs, miou, multi_scale = figures
    return Preset(
        name=name,
        config=backbone_options(variant, **groups),
        input_spec=InputSpec(size=(_SIZE, _SIZE), crop_pct=1.0, interpolation="bilinear"),
        published=PublishedSegmentation(
            params,
            gmacs,
            source=_SOURCE if miou is not None else "",
            rounded_params=rounded,
            miou=miou,
            miou_multi_scale=multi_scale,
        ),
    )


SEMANTIC_FPN = tuple(
    _preset(f"semantic_fpn_crossformer_{variant}", variant, row, _SEVENS if variant == "pp_base" else _FOURTEENS)
    for variant, row in _SEMANTIC_FPN.items()
)
UPERNET = tuple(_preset(f"upernet_crossformer_{variant}", variant, row, _SEVENS) for variant, row in _UPERNET.items())
