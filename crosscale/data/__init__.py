"""Pictures with labels, masks or boxes in, batches of uint8 arrays out: sources, decoding, transforms, loader.

Names are imported when they are first used, so that importing this package stays cheap. The functions
`decode.decode` and `mix.mix` share their file's name and are imported from there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosscale.data.augment import Augment as Augment
    from crosscale.data.box_augment import BoxAugment as BoxAugment
    from crosscale.data.decode import BadImage as BadImage
    from crosscale.data.decode import open_image as open_image
    from crosscale.data.examples import ImageExamples as ImageExamples
    from crosscale.data.image_folder import ImageFolder as ImageFolder
    from crosscale.data.image_folder import write_image_folder as write_image_folder
    from crosscale.data.joint_augment import JointAugment as JointAugment
    from crosscale.data.mask_check import check_masks as check_masks
    from crosscale.data.mask_examples import SegmentationExamples as SegmentationExamples
    from crosscale.data.mask_folder import MaskSource as MaskSource
    from crosscale.data.mask_folder import open_masks as open_masks
    from crosscale.data.object_check import check_objects as check_objects
    from crosscale.data.object_examples import ObjectExamples as ObjectExamples
    from crosscale.data.object_source import ObjectSource as ObjectSource
    from crosscale.data.object_source import open_objects as open_objects
    from crosscale.data.objects import Objects as Objects
    from crosscale.data.pipeline import BatchIterator as BatchIterator
    from crosscale.data.pipeline import eval_batches as eval_batches
    from crosscale.data.pipeline import steps_per_epoch as steps_per_epoch
    from crosscale.data.pipeline import train_batches as train_batches
    from crosscale.data.sources import open_source as open_source
    from crosscale.data.transforms import eval_transform as eval_transform
    from crosscale.data.transforms import train_transform as train_transform

_HOME = {
    "Augment": "augment",
    "BadImage": "decode",
    "BatchIterator": "pipeline",
    "BoxAugment": "box_augment",
    "ImageExamples": "examples",
    "ImageFolder": "image_folder",
    "JointAugment": "joint_augment",
    "MaskSource": "mask_folder",
    "ObjectExamples": "object_examples",
    "ObjectSource": "object_source",
    "Objects": "objects",
    "SegmentationExamples": "mask_examples",
    "check_masks": "mask_check",
    "check_objects": "object_check",
    "eval_batches": "pipeline",
    "eval_transform": "transforms",
    "open_image": "decode",
    "open_masks": "mask_folder",
    "open_objects": "object_source",
    "open_source": "sources",
    "steps_per_epoch": "pipeline",
    "train_batches": "pipeline",
    "train_transform": "transforms",
    "write_image_folder": "image_folder",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'crosscale.data' has no attribute '{name}'")
    return getattr(import_module(f"crosscale.data.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
