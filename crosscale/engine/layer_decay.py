"""Layer-wise learning-rate decay: the nearer to the input, the slower (Clark et al.: ELECTRA, 2020; BEiT, 2022)."""

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from crosscale.models.description import LAST, TOP, Layer


class Layered(Protocol):
    """A model that says what its layers are."""

    def layer_of(self, name: str) -> Layer: ...

    def timm_layer_of(self, name: str) -> Layer: ...


def counted_layers(model: Layered, rule: Literal["block", "timm"]) -> Callable[[str], Layer]:
    """The function that says a parameter's layer, by `optimizer.layer_rule`."""
    return model.timm_layer_of if rule == "timm" else model.layer_of


def layer_scales(names: Iterable[str], decay: float, layer_of: Callable[[str], Layer]) -> dict[str, float]:
    """Parameter name -> decay ** (layers above it); 1 for the head.

    Args:
      layer_of: says what a layer is; see `counted_layers`.
    """
    layers = {name: layer_of(name) for name in names}
    order = {layer: i for i, layer in enumerate(sorted({*layers.values(), TOP} - {LAST}))}
    top = order[TOP]
    order[LAST] = top - 1
    return {name: decay ** (top - order[layer]) for name, layer in layers.items()}
