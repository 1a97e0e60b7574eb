"""How timm builds the same model: its entry point, its arguments, and where its parts are."""

from typing import Any

from crosscale.models.crossvit.config import CrossViTConfig, Size
from crosscale.models.description import TimmModel

_ANY = "crossvit_9_240"  # every argument is given, so it does not matter which of timm's entry points builds it


def timm_model(c: CrossViTConfig, architecture: str | None) -> TimmModel | None:
    """See `ImageModel.timm_model`. One branch alone is a plain ViT, which only an entry point of its own builds."""
    arguments, branches = _arguments(c), range(len(c.patch_size))
    several = len(branches) > 1
    if arguments is None or not (several or architecture):
        return None
    stem = ".proj.0" if c.multi_conv else ".proj"
    return TimmModel(
        architecture=architecture or _ANY,
        arguments=arguments,
        num_features=sum(c.embed_dim),
        global_pool="token",
        classifier=[f"head.{b}" for b in branches] if several else "head",
        first_conv=[f"patch_embed.{b}{stem}" for b in branches] if several else f"patch_embed{stem}",
    )


def _arguments(c: CrossViTConfig) -> dict[str, Any] | None:
    if c.pictures > 1 or c.qk_scale is not None or c.rescale not in ("bicubic", "center_crop"):
        return None
    if len(c.patch_size) == 1:
        return {"img_size": list(c.img_size[0]), "in_chans": c.in_channels}
    scales = [_scale(c.img_size[0], size) for size in c.img_size]
    if any(scale is None for scale in scales):
        return None
    return {
        "img_size": list(c.img_size[0]),
        "img_scale": scales,
        "patch_size": list(c.patch_size),
        "in_chans": c.in_channels,
        "embed_dim": list(c.embed_dim),
        "depth": [list(stage) for stage in c.depth],
        "num_heads": list(c.num_heads),
        "mlp_ratio": [*c.mlp_ratio, 1.0],
        "qkv_bias": c.qkv_bias,
        "multi_conv": c.multi_conv,
        "crop_scale": c.rescale == "center_crop",
    }


def _scale(first: Size, size: Size) -> float | None:
    """A factor that timm's int(side * factor) takes from the first branch's sides to this one's."""
    for side, whole in zip(size, first, strict=True):
        factor = side / whole
        for candidate in (factor, factor * (1 + 1e-12), factor + 0.5 / whole):
            if tuple(int(candidate * s) for s in first) == size:
                return candidate
    return None
