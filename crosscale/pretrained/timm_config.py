"""What timm reads in a model folder's `config.json`: the architecture, its arguments and its preprocessing."""

from collections.abc import Sequence
from typing import Any

from crosscale.contracts import CropMode, InputSpec
from crosscale.models.model import ImageModel
from crosscale.models.registry import FAMILIES, get_preset

_HUB = "timm/"
_CROP_MODES: dict[CropMode, str] = {"center": "center", "pad": "border", "squash": "squash"}


def timm_config(
    model: ImageModel,
    name: str,
    spec: InputSpec,
    num_classes: int,
    classes: Sequence[str] | None,
    licence: str,
) -> dict[str, Any]:
    """The keys that timm needs; {} where timm cannot build the model."""
    preset = None if name in FAMILIES else get_preset(name)
    named = preset is not None and preset.hub.startswith(_HUB)
    timm = model.timm_model(preset.hub.removeprefix(_HUB).split(".")[0] if named and preset else None)
    if timm is None:
        return {}
    # timm sums or repeats the first kernels for other channels than its own; these are right as they are.
    convs = timm.first_conv if model.in_channels == 3 else None
    return {
        "architecture": timm.architecture,
        "num_features": timm.num_features,
        "global_pool": timm.global_pool,
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [model.in_channels, *spec.size],
            "fixed_input_size": True,
            "interpolation": spec.interpolation,
            "crop_pct": spec.crop_pct,
            "crop_mode": _CROP_MODES[spec.crop_mode],
            "mean": list(spec.mean),
            "std": list(spec.std),
            **({"first_conv": convs} if convs else {}),
            "classifier": timm.classifier,
            **({"label_names": list(classes)} if classes is not None else {}),
            **({"license": licence} if licence else {}),
        },
        "model_args": timm.arguments,
    }
