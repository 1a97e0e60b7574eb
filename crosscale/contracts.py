"""The few structures that all parts agree on. Nothing here imports another file of the package but the errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from crosscale.errors import RequestError

if TYPE_CHECKING:
    import jax

    Array: TypeAlias = jax.Array | np.ndarray  # on a device or on the host
else:
    Array = Any  # what only decodes or parses does not wait for JAX

# {"params": nested dict of arrays}, as Linen's init returns it; a model with batch norms also has "batch_stats".
Variables = dict[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Pixels = Literal["uint8", "float32"]
CropMode = Literal["center", "pad", "squash"]  # timm's words, except "border", which here is "pad"


def as_variables(params: Any, batch_stats: Any = None) -> Variables:
    """The collections that a model is applied with; without batch norms there is one."""
    return {"params": params, "batch_stats": batch_stats} if batch_stats else {"params": params}


@dataclass(frozen=True)
class InputSpec:
    """How a picture becomes a model's input; it travels with the weights.

    Attributes:
      size: height and width in pixels that the model is fed.
      channels: 1 (grey), 3 (RGB), or with `pixels` "float32" any number.
      mean: per channel, of pixels scaled to 0..1; of numbers that have no such scale, as they are.
      std: per channel, of the same numbers.
      interpolation: Pillow's filter for the evaluation resize.
      crop_pct: the share of the resized picture's side that the centre crop keeps, in (0, 1]: what `crop_mode` names
        is resized to floor(size / crop_pct), then the centre `size` is cut out.
      crop_mode: "center" resizes the shorter side, and cuts what is beyond; "pad" the longer side, with the mean
        colour around; "squash" both sides, whatever their ratio. The last two show the whole picture at crop_pct 1.
      pixels: of a prepared picture. "uint8" has 8 bits, and is normalised on the device; "float32" is read at full
        depth, and normalised where it is read.
      pictures: how many pictures an example has; their channels stand one after another, and `channels`, `mean` and
        `std` are those of all together.

    Raises:
      RequestError: at construction, for a size that is no pair of whole numbers, or a mean or std that is no list of
        numbers.
    """

    size: tuple[int, int] = (224, 224)
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    pixels: Pixels = "uint8"
    pictures: int = 1

    def __post_init__(self) -> None:
        # Tuples of plain numbers, as a spec is compared with arrays' shapes and is a static argument of programs.
        for name, kinds, needed in (("size", "iu", "(height, width)"), ("mean", "iuf", ""), ("std", "iuf", "")):
            object.__setattr__(self, name, _plain_numbers(name, getattr(self, name), kinds, needed))

    def of_picture(self, index: int) -> "InputSpec":
        """The input of one of several pictures alone."""
        own = self.channels // self.pictures
        mean, std = (values[index * own : (index + 1) * own] for values in (self.mean, self.std))
        return replace(self, channels=own, mean=mean, std=std, pictures=1)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The type of a prepared picture's numbers."""
        return np.dtype(self.pixels)


def _plain_numbers(name: str, given: Any, kinds: str, pair: str) -> tuple[Any, ...]:
    """A list or an array of numbers, of one of NumPy's `kinds`, as a tuple; of two where it is a `pair`."""
    try:
        found = np.asarray(given)
    except ValueError:  # lists of unequal lengths
        found = np.asarray(None)
    if found.ndim != 1 or found.dtype.kind not in kinds or (pair and len(found) != 2):
        wanted = f"a pair of whole numbers of pixels, {pair}" if pair else "a list of numbers, one per channel"
        raise RequestError(f"InputSpec: {name}={given!r} is not {wanted}")
    return tuple(found.tolist())


class Features(NamedTuple):
    """What a backbone returns.

    Attributes:
      pooled: one vector per branch, each (B, C_branch). CrossViT: the normalised CLS tokens;
        CrossFormer: the mean over the last map (one entry).
      maps: spatial maps, each (B, H, W, C). CrossViT: one per branch; CrossFormer: the four stages.
      strides: pixels of the images given per cell of each map, or empty where the backbone does not say. CrossViT: a
        branch's patch size, scaled as its images are where that gives a whole number, else in its own images' pixels;
        CrossFormer: 4, 8, 16, 32. To JAX they belong to the structure (`models/model.py`), and are no leaves.
    """

    pooled: tuple[Array, ...]
    maps: tuple[Array, ...]
    strides: tuple[int, ...] = ()


class Batch(NamedTuple):
    """One step's examples, as host arrays; B rows each, and every shape fixed from step to step.

    Attributes:
      arrays: by name. "image" (B, H, W, C) uint8, as decoded, cropped and resized (normalisation happens on the
        device) or float32 that is normalised (`InputSpec.pixels`), and what the task learns from, such as "label" (B,)
        int32.
      weight: (B,) float32, 1 for a real example and 0 for padding that fills the last batch; in training what the
        source says of how much an example counts.
      index: (B,) int64, the example's position in its source; -1 for padding.
    """

    arrays: Mapping[str, Array]
    weight: Array
    index: Array  # type: ignore[assignment]  # a tuple has a method of that name

    @property
    def image(self) -> Array:
        """(B, H, W, C), of the input's `dtype`."""
        return self.arrays["image"]


@dataclass(frozen=True)
class Record:
    """One example of a source.

    Attributes:
      id: stable and unique within the source: a path relative to the root, or "name/index".
      image: encoded file bytes, or a decoded (H, W) or (H, W, C) array; a tuple of several pictures.
      target: what to learn from it, as the source's task understands it: for a classification, the class index,
        0..len(classes)-1.
    """

    id: str
    image: Any
    target: Any


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split. Must be picklable (loader workers).

    What its targets are, and what else it says of them (such as `classes`, the names in label order), is between the
    source and the task that opens it.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source whose targets are positions in `classes`."""

    classes: Sequence[str]  # names, in label order


class Examples(Protocol):
    """From a record to the arrays of one example, whose names and shapes are the same for all. Must be picklable.

    Validation examples of `SizedExamples` have shapes that depend on the picture's size.
    """

    def train(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A record as training sees it, with the randomness of `rng`. Raises BadImage."""
        ...

    def validation(self, record: Record) -> dict[str, np.ndarray]:
        """A record as validation and prediction see it. Raises BadImage."""
        ...

    def blank(self) -> dict[str, np.ndarray]:
        """The stand-in for an example that does not count: padding, or a picture that does not decode."""
        ...


@runtime_checkable
class SizedExamples(Protocol):
    """Examples whose validation arrays depend on the picture's size: a batch holds those of one key."""

    def shape_key(self, size: tuple[int, int]) -> Any:
        """For a picture of (height, width): equal keys mean arrays of equal shapes; keys can be sorted."""
        ...

    def blank(self, shape_key: Any = None) -> dict[str, np.ndarray]:
        """As `Examples.blank`, in validation for a key."""
        ...


@runtime_checkable
class ShapedExamples(Protocol):
    """Examples whose training arrays are of one of a few shapes, by the picture's size: a batch holds those of one.

    Attributes:
      train_shapes: the sizes (height, width) of training images.
    """

    @property
    def train_shapes(self) -> Sequence[tuple[int, int]]: ...

    def train_shape(self, size: tuple[int, int]) -> int:
        """For a picture of (height, width): which of `train_shapes` it has."""
        ...

    def train_blank(self, shape: int) -> dict[str, np.ndarray]:
        """As `Examples.blank`, in training for one of `train_shapes`."""
        ...
