"""What a row of a family's preset table holds."""

from dataclasses import dataclass, field
from typing import Any

from crosscale.contracts import InputSpec


@dataclass(frozen=True)
class Published:
    """Numbers as published, to compare against: never computed here.

    Attributes:
      params: number of parameters, exact.
      gmacs: 1e9 multiply-accumulates of one image; None where nothing was published.
      top1: ImageNet-1k top-1 in percent; None where nothing was published.
      top5: likewise top-5.
      source: where the accuracy was published.
    """

    params: int
    gmacs: float | None
    top1: float | None = None
    top5: float | None = None
    source: str = ""


@dataclass(frozen=True)
class PublishedSegmentation(Published):
    """The numbers of a segmentation, published to 0.1 million parameters.

    Attributes:
      params: number of parameters, exact: of the released code where that was counted, else of the model here.
      rounded_params: in millions, as published; None where nothing was.
      gmacs: of one image of `gmacs_size` pixels.
      gmacs_size: height and width.
      miou: mean intersection over union on ADE20K's held-out part in percent, at one scale.
      miou_multi_scale: likewise of several scales' mean.
    """

    rounded_params: float | None = None
    gmacs_size: tuple[int, int] = (1024, 1024)
    miou: float | None = None
    miou_multi_scale: float | None = None


@dataclass(frozen=True)
class PublishedDetection(Published):
    """The numbers of a detector, published to 0.1 million parameters.

    Attributes:
      params: number of parameters, exact: of the released code where that was counted, else of the model here.
      rounded_params: in millions, as published.
      gmacs: of one image of `gmacs_size` pixels.
      gmacs_size: height and width.
      box_ap: average precision of boxes on COCO's held-out part of 2017 in percent, mean over overlaps of 0.5 to 0.95.
      mask_ap: likewise of masks; None where there are none.
    """

    rounded_params: float | None = None
    gmacs_size: tuple[int, int] = (800, 1280)
    box_ap: float | None = None
    mask_ap: float | None = None


@dataclass(frozen=True)
class Preset:
    """One named model.

    Attributes:
      name: as `create_model` takes it.
      config: constructor fields that differ from the family's defaults.
      input_spec: the preprocessing that belongs to the weights.
      published: numbers to compare against.
      series: the models' name in publications ("DeiT"); "" is the family's class name.
      hub: repository on the Hugging Face hub that holds the weights, or "".
      revision: of that repository: a branch, a tag or a commit. A commit never changes; a branch may.
      sha256: of its `model.safetensors`, checked where it is given; "" relies on the hub's own record.
      aliases: other names of the same model.
    """

    name: str
    config: dict[str, Any]
    input_spec: InputSpec
    published: Published
    series: str = ""
    hub: str = ""
    # The repositories' commits are not recorded here, so the branch stands in; what is fetched is checked against
    # the hub's own hash, the format and every tensor's name and shape.
    revision: str = "main"
    sha256: str = ""
    aliases: tuple[str, ...] = field(default=())
