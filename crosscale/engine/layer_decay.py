"""Layer-wise learning-rate decay: the nearer to the input, the slower (Clark et al.: ELECTRA, 2020; BEiT, 2022)."""

from collections.abc import Callable, Iterable

from crosscale.models.description import TOP, Layer


def layer_scales(names: Iterable[str], decay: float, layer_of: Callable[[str], Layer]) -> dict[str, float]:
    """Parameter name -> decay ** (layers above it); 1 for the head and the last norms.

    Args:
      layer_of: the model's, which says what a layer is (`ImageModel.layer_of`).
    """
    layers = {name: layer_of(name) for name in names}
    order = {layer: i for i, layer in enumerate(sorted({*layers.values(), TOP}))}
    return {name: decay ** (len(order) - 1 - order[layer]) for name, layer in layers.items()}
