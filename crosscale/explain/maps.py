"""The attention maps of a model, whatever its family, from the one forward that everything uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array, InputSpec, Variables
from crosscale.engine.forward import forward
from crosscale.errors import RequestError
from crosscale.explain.coordinates import place
from crosscale.layers.attention import ATTENTION
from crosscale.models.description import AttentionMaps, Direction, Map
from crosscale.models.model import ImageModel
from crosscale.models.registry import families_that
from crosscale.models.shapes import remembered
from crosscale.trees import flatten


class Explained(NamedTuple):
    """One forward's answer and where it looked.

    Attributes:
      outputs: what the model gives; logits (B, num_classes).
      maps: by name, (B, H, W) float32 in picture coordinates.
    """

    outputs: np.ndarray
    maps: dict[str, np.ndarray]


def attention(
    model: nn.Module,
    variables: Variables,
    images: Array,
    *,
    spec: InputSpec | None = None,
    position: tuple[float, float] | None = None,
    direction: Direction = "received",
) -> dict[str, np.ndarray]:
    """Attention maps of pictures; `describe_maps` says which there are and what each one shows, as the model's family
    tells (`attention_maps`).

    CrossViT: "cls/b", the attention of branch b's CLS token to its own patches; "cross/b_to_o", of branch b's CLS
    token to the patches of branch o in the fusion; "rollout/b", rolled out within branch b; "rollout_across/b",
    rolled out over all branches and fusions, as far as it ends on the patches of branch b. CrossFormer:
    "stage_s/short" and "stage_s/long", of the last short- and long-distance block of stage s.

    Args:
      images: (B, H, W, C), uint8, or floating point that is already normalised.
      spec: the input that the variables were trained for; needed for uint8 images.
      position: for maps that have one, as CrossFormer's: the place in question, (y, x) as fractions of height and
        width in 0..1; None asks how much attention every cell receives from all others on average.
      direction: with a position: what every cell gives to it ("received"), or what it gives to every cell ("given").

    Returns:
      By name, (B, H, W) float32: every pixel has the weight of the patch that covers it, in 0..1, averaged over the
      heads; 0 where no patch does.

    Raises:
      RequestError: a model without such maps, images that do not fit, or a position that means nothing.
    """
    return explain(model, variables, images, spec=spec, position=position, direction=direction).maps


def explain(
    model: nn.Module,
    variables: Variables,
    images: Array,
    *,
    spec: InputSpec | None = None,
    position: tuple[float, float] | None = None,
    direction: Direction = "received",
    method: str | None = None,
    sizes: Array | None = None,
) -> Explained:
    """As `attention`, with the outputs of the very forward that the maps come from.

    Args:
      method: of the model, whose outputs are wanted; None is `__call__`.
      sizes: (B, 2), for a method that asks for it: height and width of each image without what fills it up.
    """
    _check(model, images, spec, position, direction)
    where = None if position is None else jnp.asarray(position, jnp.float32)
    which: Direction = "given" if position is None else direction
    run = _maps_program(model, spec or InputSpec(), which, method)
    outputs, found = run(variables, images, where, sizes)
    return Explained(jax.device_get(outputs), {name: np.asarray(x) for name, x in jax.device_get(found).items()})


def weights(
    model: nn.Module, variables: Variables, images: Array, *, spec: InputSpec | None = None
) -> dict[str, np.ndarray]:
    """The attention weights of every layer, as computed, by "a/b/c" name of the layer.

    Returns:
      (B, heads, queries, keys) for self-attention, (B, heads, keys) for CrossViT's fusion, whose one query is the
      CLS token, and (B groups, heads, cells, cells) for CrossFormer's groups. Any Linen model that uses these layers
      will do.

    Raises:
      RequestError: a model without such layers, or uint8 images without `spec`.
    """
    if jnp.issubdtype(images.dtype, jnp.integer) and spec is None:
        raise RequestError("uint8 images need spec=, the model's InputSpec, to be normalised with")
    captured = jax.device_get(_weights_program(model, spec or InputSpec())(variables, images))
    if not captured:
        raise RequestError(
            f"no attention weights in {_full_name(model)}: none of its layers is one of crosscale's that keep them"
        )
    return {name.removesuffix("/weights"): x[0] for name, x in flatten(captured).items()}


def describe_maps(model: nn.Module, size: tuple[int, int] | None = None) -> tuple[Map, ...]:
    """The maps that `attention` returns for pictures of `size` (the model's own when None), in drawing order.

    Raises:
      RequestError: the model has none.
    """
    return describe_attention(model, size).maps


def describe_attention(model: nn.Module, size: tuple[int, int] | None = None) -> AttentionMaps:
    """What the model's family says of its maps for pictures of `size` (the model's own when None).

    Raises:
      RequestError: there are none.
    """
    found = model.attention_maps(size) if isinstance(model, ImageModel) else None
    if found is None:
        families = families_that("attention_maps")
        raise RequestError(f"no attention maps for {_full_name(model)}; the families {families} of crosscale have them")
    return found


def _full_name(model: nn.Module) -> str:
    """With the module, as `crosscale.compat` has classes of the families' names."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _captured(
    model: nn.Module, variables: Variables, images: Array, spec: InputSpec, method: str | None, sizes: Array | None
) -> tuple[Array, Any]:
    options: dict[str, Any] = {} if sizes is None else {"sizes": sizes}
    outputs, state = forward(model, variables, images, spec, mutable=[ATTENTION], method=method, **options)
    return outputs, state.get(ATTENTION, {})


@remembered(32)
def _weights_program(model: nn.Module, spec: InputSpec) -> Callable[..., Any]:
    """(variables, images) -> the attention weights of all layers, compiled."""

    @jax.jit
    def run(variables: Variables, images: Array) -> Any:
        return _captured(model, variables, images, spec, None, None)[1]

    return run


@remembered(32)
def _maps_program(model: nn.Module, spec: InputSpec, direction: Direction, method: str | None) -> Callable[..., Any]:
    """(variables, images, position, sizes) -> the outputs and the maps, compiled."""

    @jax.jit
    def run(
        variables: Variables, images: Array, position: Array | None, sizes: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        outputs, captured = _captured(model, variables, images, spec, method, sizes)
        size = images.shape[1], images.shape[2]
        family = describe_attention(model, size)
        found = family.grids(captured, position, direction)
        return outputs, {name: place(found[name], where, size) for name, where in family.placements.items()}

    return run


def _check(
    model: nn.Module,
    images: Array,
    spec: InputSpec | None,
    position: tuple[float, float] | None,
    direction: str,
) -> None:
    family = describe_attention(model)
    if images.ndim != 4:
        raise RequestError(f"images must be (batch, height, width, channels), got shape {tuple(images.shape)}")
    if jnp.issubdtype(images.dtype, jnp.integer) and spec is None:
        raise RequestError("uint8 images need spec=, the model's InputSpec, to be normalised with")
    if direction not in ("received", "given"):
        raise RequestError(f"direction={direction!r}: received or given")
    if position is None:
        return
    if family.no_position:
        raise RequestError(
            f"position: {type(model).__name__}'s maps are {family.no_position}, which have no position; leave it out"
        )
    if len(position) != 2 or not all(0 <= value <= 1 for value in position):
        raise RequestError(f"position={position}: give (y, x) as fractions of height and width, each in 0..1")
