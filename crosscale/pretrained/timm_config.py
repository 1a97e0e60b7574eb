"""What timm reads in a model folder's `config.json`: the architecture, its arguments and its preprocessing."""

from collections.abc import Sequence
from typing import Any

from crosscale.contracts import InputSpec
from crosscale.models.crossvit.backbone import CrossViT
from crosscale.models.model import ImageModel
from crosscale.models.registry import FAMILIES, get_preset

_HUB = "timm/"
_ANY = "crossvit_9_240"  # every argument is given, so it does not matter which of timm's entry points builds it


def timm_config(
    model: ImageModel,
    name: str,
    spec: InputSpec,
    num_classes: int,
    classes: Sequence[str] | None,
    licence: str,
) -> dict[str, Any]:
    """The keys that timm needs; {} where timm cannot build the model."""
    if not isinstance(model, CrossViT):
        return {}
    arguments = _arguments(model)
    preset = None if name in FAMILIES else get_preset(name)
    named = preset is not None and preset.hub.startswith(_HUB)
    if arguments is None or (len(model.patch_size) == 1 and not named):
        return {}
    hub = preset.hub if named and preset else _HUB + _ANY
    # timm sums or repeats the first kernels for other channels than its own; these are right as they are.
    convs = _first_convs(model) if model.in_channels == 3 else None
    return {
        "architecture": hub.removeprefix(_HUB).split(".")[0],
        "num_features": sum(model.embed_dim),
        "global_pool": "token",
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [model.in_channels, *spec.size],
            "fixed_input_size": True,
            "interpolation": spec.interpolation,
            "crop_pct": spec.crop_pct,
            "crop_mode": "center",
            "mean": list(spec.mean),
            "std": list(spec.std),
            **({"first_conv": convs} if convs else {}),
            "classifier": [f"head.{b}" for b in range(len(model.patch_size))] if len(model.patch_size) > 1 else "head",
            **({"label_names": list(classes)} if classes is not None else {}),
            **({"license": licence} if licence else {}),
        },
        "model_args": arguments,
    }


def _arguments(model: CrossViT) -> dict[str, Any] | None:
    if model.qk_scale is not None or model.rescale not in ("bicubic", "center_crop"):
        return None
    if len(model.patch_size) == 1:
        return {"img_size": list(model.img_size[0]), "in_chans": model.in_channels}
    scales = [_scale(model.img_size[0], size) for size in model.img_size]
    if any(scale is None for scale in scales):
        return None
    return {
        "img_size": list(model.img_size[0]),
        "img_scale": scales,
        "patch_size": list(model.patch_size),
        "in_chans": model.in_channels,
        "embed_dim": list(model.embed_dim),
        "depth": [list(stage) for stage in model.depth],
        "num_heads": list(model.num_heads),
        "mlp_ratio": [*model.mlp_ratio, 1.0],
        "qkv_bias": model.qkv_bias,
        "multi_conv": model.multi_conv,
        "crop_scale": model.rescale == "center_crop",
    }


def _scale(first: tuple[int, int], size: tuple[int, int]) -> float | None:
    """A factor that timm's int(side * factor) takes from the first branch's sides to this one's."""
    for side, whole in zip(size, first, strict=True):
        factor = side / whole
        for candidate in (factor, factor * (1 + 1e-12), factor + 0.5 / whole):
            if tuple(int(candidate * s) for s in first) == size:
                return candidate
    return None


def _first_convs(model: CrossViT) -> list[str] | str:
    stem = ".proj.0" if model.multi_conv else ".proj"
    return (
        [f"patch_embed.{b}{stem}" for b in range(len(model.patch_size))]
        if len(model.patch_size) > 1
        else (f"patch_embed{stem}")
    )
