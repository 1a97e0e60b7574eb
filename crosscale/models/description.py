"""The words in which a family describes itself to explain, export and the rest (see `model.ImageModel`)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from crosscale.contracts import Array

Layer = tuple[float, float]  # sorts from the images to the head: a stage, and a place within it
TOP: Layer = (math.inf, math.inf)  # the head, and the norms right below it
BOTTOM: Layer = (-1, 0)  # the embedding
LAST: Layer = (math.inf, 0)  # the layer right below the head, whichever it is

Direction = Literal["received", "given"]


@dataclass(frozen=True)
class Map:
    """One kind of attention map that a model has.

    Attributes:
      name: the key under which `attention` returns it.
      kind: whose attention it shows, for a heading.
      scale: over which patches, for a heading.
      cells: patches or cells of the whole grid; even attention gives each of them 1 / cells.
      folded: whether a sheet shows it only where all maps are asked for.
      channels: first and past the last of the images' channels that it lies over; None where these are one picture.
    """

    name: str
    kind: str
    scale: str
    cells: int
    folded: bool = False
    channels: tuple[int, int] | None = None


@dataclass(frozen=True)
class Placement:
    """Where a grid lies in a picture.

    Attributes:
      grid: rows and columns of the grid.
      start: the pixel (y, x) at which its first cell begins.
      cell: height and width of a cell in pixels, not necessarily whole.
    """

    grid: tuple[int, int]
    start: tuple[float, float]
    cell: tuple[float, float]


@dataclass(frozen=True)
class AttentionMaps:
    """The attention maps of one model for pictures of one size.

    Attributes:
      maps: which there are, in drawing order.
      placements: by name, where each lies in the picture.
      grids: (captured attention weights, position, direction) -> by name, (B, rows, columns) float32. The weights are
        nested as the model. The position is (2,) y and x as fractions of the picture, or None for all alike;
        "received" is the weight with which every cell attends to it, "given" the weight that it gives to every cell.
      no_position: what the maps are of, where a position means nothing to them; "" where it does.
    """

    maps: tuple[Map, ...]
    placements: Mapping[str, Placement]
    grids: Callable[[Mapping[str, Any], Array | None, Direction], dict[str, Array]]
    no_position: str = ""


class OpenSizes(NamedTuple):
    """The picture sizes that one program serves: multiples of `step` pixels, each side at least `smallest`."""

    step: int
    smallest: int


@dataclass(frozen=True)
class TimmModel:
    """How timm builds a model and reads its weights.

    Attributes:
      architecture: timm's entry point.
      arguments: its keyword arguments.
      num_features: width of the pooled features.
      global_pool: timm's name of the pooling.
      classifier: names of the linear heads.
      first_conv: names of the convolutions that read the image.
    """

    architecture: str
    arguments: dict[str, Any]
    num_features: int
    global_pool: str
    classifier: str | list[str]
    first_conv: str | list[str]
