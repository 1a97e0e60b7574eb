"""What every image model is: a backbone that returns Features, a head that reads them, and what the family says of
itself."""

from collections.abc import Iterable
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AxisType

from crosscale.contracts import Array, Features
from crosscale.errors import RequestError, did_you_mean
from crosscale.models.description import BOTTOM, LAST, TOP, AttentionMaps, Layer, OpenSizes, TimmModel
from crosscale.models.heads.linear import MeanOfLinears
from crosscale.weights.positions import PositionTable
from crosscale.weights.rules import Rules


def _features(strides: tuple[int, ...], children: Iterable[Any]) -> Features:
    pooled, maps = children
    return Features(pooled, maps, strides)


# The strides belong to the structure: as leaves they would be numbers that jit traces and gradients pass through.
jax.tree_util.register_pytree_with_keys(
    Features,
    lambda x: ([(jax.tree_util.GetAttrKey(name), getattr(x, name)) for name in ("pooled", "maps")], x.strides),
    _features,
)


class ImageModel(nn.Module):
    """Base of the families: `__call__` gives what the head gives, `features` what the head reads.

    A family names its constructor's fields, builds its backbone, says its `input_size`, and answers what the rest of
    the package asks of it; the answers below have defaults. Parameters live under "backbone/..." and "head/...".

    Attributes:
      task_head: a module that takes (Features, train), in place of the family's classifier; `num_classes` means
        nothing then. It is keyword-only, and its parameters live under "head/..." too.
      takes_task_head: whether one module can stand in place of the family's head.
      dense: whether `__call__` gives something of every pixel, rather than of the picture.
      usual_task: what the outputs mean where nobody says; a detector's are boxes, a segmentation model's masks.

    Raises:
      RequestError: at construction, for a `task_head` that is no module, or where the family takes none.
      TypeError: at construction, for a keyword that is no field; it names the nearest one.
    """

    takes_task_head: ClassVar[bool] = True
    dense: ClassVar[bool] = False
    usual_task: ClassVar[str] = "classification"
    task_head: nn.Module | None = field(default=None, kw_only=True)

    if TYPE_CHECKING:  # every family has these; written as annotations they would be fields, in front of its own

        @property
        def in_channels(self) -> int: ...

        @property
        def num_classes(self) -> int: ...

        @property
        def dtype(self) -> Any: ...

    def __init_subclass__(cls, **options: Any) -> None:
        # Linen would wrap these as steps of the forward, which `tabulate` runs one by one, outside of `setup`.
        for name, own in cls.__dict__.items():
            if hasattr(getattr(ImageModel, name, None), "nowrap"):
                nn.nowrap(own)
        super().__init_subclass__(**options)

    def __new__(cls, *args: Any, **options: Any) -> Self:
        known = option_names(cls)
        for name in options:
            if name not in (*known, "parent", "name"):
                raise TypeError(f"{cls.__name__} has no option '{name}'{did_you_mean(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.task_head is not None and not isinstance(self.task_head, nn.Module):
            raise RequestError(f"task_head={self.task_head!r} is not a Linen module")
        if self.task_head is not None and not self.takes_task_head:
            raise RequestError(
                f"task_head: {type(self).__name__}, a model of the task {self.usual_task}, has several heads, in whose "
                "place no single module can stand; give one to another family, such as CrossFormer"
            )
        super().__post_init__()

    def setup(self) -> None:
        self.backbone = self.make_backbone()
        # A copy, because Linen has named the field's own module "task_head"; that one stays without parameters.
        self.head = self.make_head() if self.task_head is None else self.task_head.clone(parent=None, name=None)

    @nn.nowrap
    def make_backbone(self) -> nn.Module:
        """(images, train) -> Features."""
        raise NotImplementedError

    @nn.nowrap
    def make_head(self) -> nn.Module:
        """(Features, train) -> (B, num_classes) logits, where no `task_head` is given."""
        return MeanOfLinears(self.num_classes, self.dtype)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels that the model is meant to be fed."""
        raise NotImplementedError

    @nn.nowrap
    def layer_of(self, name: str) -> Layer:
        """The depth of the parameter "a/b/c": pairs that sort from the images to the head.

        Parameters of one pair make one layer for the layer-wise decay of the learning rate; `TOP` are the head and
        the last norms, which keep the whole rate.
        """
        return TOP if name.startswith("head/") else BOTTOM

    @nn.nowrap
    def timm_layer_of(self, name: str) -> Layer:
        """The same as timm counts it: all of an embedding is the lowest layer, and the last norms are part of the last.

        See `optimizer.layer_rule`.
        """
        if name.startswith("backbone/embed"):
            return BOTTOM
        layer = self.layer_of(name)
        return LAST if layer == TOP and name.startswith("backbone/") else layer

    @nn.nowrap
    def attention_maps(self, size: tuple[int, int] | None = None) -> AttentionMaps | None:
        """The attention maps for pictures of `size` in pixels (the model's own when None); None has none."""
        return None

    @nn.nowrap
    def open_sizes(self) -> OpenSizes | None:
        """The picture sizes that one exported program serves; None where it has one size."""
        return None

    @nn.nowrap
    def weight_rules(self) -> dict[str, Rules]:
        """Name rules by scheme ("timm", "official", ...) for this configuration; own names need none."""
        return {}

    @nn.nowrap
    def weight_remarks(self) -> dict[str, str]:
        """What to say when weights of a scheme are loaded, by scheme."""
        return {}

    @nn.nowrap
    def position_tables(self) -> dict[str, PositionTable]:
        """The learnt position tables by parameter name: what has to be resized for another image size."""
        return {}

    @nn.nowrap
    def timm_model(self, architecture: str | None) -> TimmModel | None:
        """How timm builds this configuration; None where it cannot.

        Args:
          architecture: timm's name of the preset that the model was built from; None where it has none.
        """
        return None

    @nn.nowrap
    def new_parts(self) -> tuple[str, ...]:
        """Prefixes of the parameters that may be made anew for another task."""
        return ("head/",)

    @nn.nowrap
    def classifiers(self) -> tuple[str, ...]:
        """Prefixes of the parameters that belong to classes: made anew where the classes differ."""
        return ("head/",)

    @nn.nowrap
    def classes_of(self, name: str, width: int) -> int:
        """How many classes the last dimension of a classifier's parameter stands for.

        Args:
          name: "a/b/c", below one of `classifiers`.
          width: of its last dimension.
        """
        return width

    @nn.nowrap
    def left_out(self) -> tuple[str, ...]:
        """Prefixes of the parameters that files of related models have and this one does without."""
        return ()

    def __call__(self, images: Array, train: bool = False) -> Array:
        """(B, H, W, channels) normalised images -> (B, num_classes) logits, or what `task_head` gives.

        Args:
          images: float, NHWC, normalised with the mean and deviation that belong to the weights.
          train: turns dropout and stochastic depth on; needs `rngs={"dropout": key}`.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        if images.shape[:1] == (0,):
            return self(one_blank(images), train)[:0]
        return self.decode(self.backbone(images, train), train)

    def decode(self, features: Features, train: bool = False) -> Array:
        """What the head makes of what `features` gave."""
        outputs: Array = self.head(features, train)
        return outputs

    def training_outputs(self, images: Array, train: bool = True) -> Any:
        """What a task's loss reads: the outputs, and what a model computes for the loss alone, such as an auxiliary
        head's."""
        return self(images, train)

    def features(self, images: Array, train: bool = False) -> Features:
        """(B, H, W, channels) -> Features(pooled, maps, strides), before the head."""
        if images.shape[:1] == (0,):
            none: Features = jax.tree.map(lambda leaf: leaf[:0], self.features(one_blank(images), train))
            return none
        features: Features = self.backbone(images, train)
        return features


def one_blank(images: Array) -> Array:
    """(0, H, W, C) -> (1, H, W, C): a black picture, as the blocks' groups and products are not made for none."""
    return jnp.zeros((1, *images.shape[1:]), images.dtype)


def option_names(family: type[ImageModel]) -> list[str]:
    """The constructor's fields, without Linen's own."""
    return [name for name in family.__dataclass_fields__ if name not in ("parent", "name")]


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
    place = jax.typeof(images).sharding
    if any(place.spec) and AxisType.Explicit in place.mesh.axis_types:
        # The types of `jax.sharding` do not follow a batch through the reshapes of groups, heads and patches.
        raise RequestError(
            f"images are spread over the mesh {dict(place.mesh.shape)} whose axes are explicit; make it with "
            "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * axes)"
        )
