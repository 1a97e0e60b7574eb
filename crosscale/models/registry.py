"""The families and their presets, written out. A new family is one more line here."""

import fnmatch
from dataclasses import replace
from typing import Any

from crosscale.contracts import InputSpec
from crosscale.errors import RequestError, did_you_mean
from crosscale.models.checks import is_whole, plain
from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.models.crossformer.detection import RetinaNetCrossFormer
from crosscale.models.crossformer.detection_presets import MASK_RCNN, RETINANET
from crosscale.models.crossformer.mask_rcnn import MaskRCNNCrossFormer
from crosscale.models.crossformer.presets import PRESETS as CROSSFORMER
from crosscale.models.crossformer.segmentation import SemanticFPNCrossFormer, UPerNetCrossFormer
from crosscale.models.crossformer.segmentation_presets import SEMANTIC_FPN, UPERNET
from crosscale.models.crossvit.backbone import CrossViT
from crosscale.models.crossvit.presets import PRESETS as CROSSVIT
from crosscale.models.crossvit.segmentation import SemanticFPNCrossViT
from crosscale.models.model import ImageModel, option_names
from crosscale.models.presets import Preset

FAMILIES: dict[str, tuple[type[ImageModel], tuple[Preset, ...]]] = {
    "crossvit": (CrossViT, CROSSVIT),
    "crossformer": (CrossFormer, CROSSFORMER),
    "semantic_fpn_crossformer": (SemanticFPNCrossFormer, SEMANTIC_FPN),
    "upernet_crossformer": (UPerNetCrossFormer, UPERNET),
    "retinanet_crossformer": (RetinaNetCrossFormer, RETINANET),
    "mask_rcnn_crossformer": (MaskRCNNCrossFormer, MASK_RCNN),
    "semantic_fpn_crossvit": (SemanticFPNCrossViT, ()),
}


def list_models(pattern: str = "*") -> list[str]:
    """Preset names that match a shell-style pattern such as "crossvit_*dagger*", sorted."""
    names = [preset.name for _, presets in FAMILIES.values() for preset in presets]
    return sorted(fnmatch.filter(names, pattern))


def get_preset(name: str) -> Preset:
    """The row of a preset, by its name or one of its aliases.

    Raises RequestError for an unknown name, with the nearest known one.
    """
    return find_model(name)[1]


def create_model(name: str, **overrides: Any) -> ImageModel:
    """Builds a preset, or a family's plain constructor, with any constructor field replaced.

    Args:
      name: a preset ("crossvit_9_240"), an alias of one ("crossvit_9_224"), or a family ("crossvit").
      **overrides: constructor fields, such as `num_classes=10` or `dtype=jnp.bfloat16`. For a preset of several
        branches, `img_size=S` with one number keeps the ratio between its branches' sizes.

    Raises:
      RequestError: unknown name or field, or a configuration that cannot be built.
    """
    if not isinstance(name, str):
        raise RequestError(f"create_model takes a name first, such as 'crossvit_9_240', not {type(name).__name__}")
    if name in FAMILIES:
        family, config = FAMILIES[name][0], {}
    else:
        family, preset = find_model(name)
        config = dict(preset.config)
    known = option_names(family)
    for field in overrides:
        if field not in known:
            raise RequestError(f"{name} has no option '{field}'{did_you_mean(field, known)}")
    if is_whole(size := plain(overrides.get("img_size"))) and isinstance(config.get("img_size"), tuple):
        overrides["img_size"] = tuple(size * s // config["img_size"][0] for s in config["img_size"])
    return family(**{**config, **overrides})


def input_spec(name: str, model: ImageModel) -> InputSpec:
    """The preprocessing for `model`: the preset's, at the model's own input size and channels."""
    spec = InputSpec() if name in FAMILIES else get_preset(name).input_spec
    if model.input_size != spec.size:
        spec = replace(spec, size=model.input_size)
    pictures = getattr(model, "pictures", 1)
    channels = model.in_channels // pictures
    if channels != spec.channels:
        mean, std = (_per_channel(v, channels) for v in (spec.mean, spec.std))
        spec = replace(spec, channels=channels, mean=mean, std=std)
    if pictures > 1:
        total, mean, std = model.in_channels, spec.mean * pictures, spec.std * pictures
        spec = replace(spec, channels=total, mean=mean, std=std, pictures=pictures)
    return spec


def families_that(answer: str) -> str:
    """The families, by class name and in words, that have an answer of their own, such as "open_sizes"."""
    names = [
        family.__name__ for family, _ in FAMILIES.values() if getattr(family, answer) != getattr(ImageModel, answer)
    ]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "none"


def check_name(name: str) -> None:
    """Raises RequestError unless `create_model` knows the name."""
    if name not in FAMILIES:
        find_model(name)


def find_model(name: str) -> tuple[type[ImageModel], Preset]:
    """The family and the row of a preset, by its name or one of its aliases.

    Raises RequestError for an unknown name, with the nearest known one.
    """
    known: list[str] = []
    for family, presets in FAMILIES.values():
        for preset in presets:
            if name in (preset.name, *preset.aliases):
                return family, preset
            known += [preset.name, *preset.aliases]
    raise RequestError(
        f"unknown model '{name}'{did_you_mean(name, [*known, *FAMILIES])} (`crosscale models` lists them)"
    )


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Statistics for another number of channels: their average for every channel."""
    return (sum(values) / len(values),) * channels
