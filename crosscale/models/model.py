"""What every image model is: a backbone that returns Features, and a head that reads them."""

from typing import Any

from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.errors import RequestError
from crosscale.weights.positions import PositionTable
from crosscale.weights.rules import Rules


class ImageModel(nn.Module):
    """Base of the families: `__call__` gives logits, `features` what the head would read.

    A family names its constructor's fields and builds the two parts; parameters live under
    "backbone/..." and "head/...".
    """

    def setup(self) -> None:
        self.backbone = self.make_backbone()
        self.head = self.make_head()

    def make_backbone(self) -> nn.Module:
        raise NotImplementedError

    def make_head(self) -> nn.Module:
        raise NotImplementedError

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels that the model is meant to be fed."""
        raise NotImplementedError

    def weight_rules(self) -> dict[str, Rules]:
        """Name rules by scheme ("timm", "official", ...) for this configuration; own names need none."""
        return {}

    def position_tables(self) -> dict[str, PositionTable]:
        """The learned position tables by parameter name: what has to be resized for another image size."""
        return {}

    def __call__(self, images: Array, train: bool = False) -> Array:
        """(B, H, W, channels) normalised images -> (B, num_classes) logits.

        Args:
          images: float, NHWC, normalised with the mean and deviation that belong to the weights.
          train: turns dropout and stochastic depth on; needs `rngs={"dropout": key}`.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        return self.head(self.backbone(images, train), train)

    def features(self, images: Array, train: bool = False) -> Features:
        """(B, H, W, channels) -> Features(pooled, maps), before the head."""
        return self.backbone(images, train)


def rematerialised(block: type[nn.Module]) -> Any:
    """The block with its insides computed again in the backward pass; it is called as (x, train)."""
    return nn.remat(block, static_argnums=(2,))


def check_images(images: Array, in_channels: int) -> None:
    """Raises RequestError unless `images` is a float (B, H, W, in_channels) array."""
    if images.ndim != 4:
        raise RequestError(f"images must be (batch, height, width, channels), got shape {tuple(images.shape)}")
    if images.shape[-1] != in_channels:
        swapped = images.shape[1] == in_channels
        hint = "; images are NHWC: transpose to (0, 2, 3, 1)" if swapped else ""
        raise RequestError(
            f"images have {images.shape[-1]} channels, the model was built with in_channels={in_channels}{hint}"
        )
    if images.dtype.kind in "iub":
        raise RequestError(f"images are {images.dtype}; the model takes normalised float images")


def normalised(field: str, value: Any, count: int, kind: type) -> tuple[Any, ...]:
    """`value` as a tuple of `count` numbers of `kind`; one number stands for all of them.

    Raises RequestError when the count or a type does not fit.
    """
    values = (value,) * count if isinstance(value, int | float) else tuple(value)
    if len(values) != count:
        raise RequestError(f"{field}={list(values)} has {len(values)} entries, but there are {count} of them to set")
    for entry in values:
        if isinstance(entry, bool) or not isinstance(entry, kind | int):
            raise RequestError(f"{field}={list(values)}: {entry!r} is not {kind.__name__}")
    return tuple(kind(entry) for entry in values)
