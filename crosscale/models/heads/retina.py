"""RetinaNet's head: the same convolutions on every level of a pyramid (Lin et al., ICCV 2017, section 4)."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.conv import Conv
from crosscale.layers.initializers import named, normal

NORMAL = normal(0.01)
PRIOR = 0.01  # the probability with which every class of every anchor starts
START = named(nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR)), "log_odds(0.01)")


class AnchorOutputs(NamedTuple):
    """What a head says of every anchor, a map per level, fine to coarse.

    Attributes:
      logits: (B, h, w, anchors * classes), an anchor's classes together.
      deltas: (B, h, w, anchors * 4), an anchor's dx, dy, dw, dh together (`crosscale.layers.boxes.decode_boxes`).
    """

    logits: tuple[Array, ...]
    deltas: tuple[Array, ...]


class RetinaHead(nn.Module):
    """A probability of every class, and a box, for every anchor.

    Two chains of 3 x 3 convolutions with ReLU, without norms, and a last one each; all levels share them.

    Attributes:
      num_classes: classes.
      anchors: of a cell.
      channels: of the chains.
      depth: convolutions of a chain, without the last.
      dtype: compute type; what comes out is float32.
    """

    num_classes: int
    anchors: int
    channels: int = 256
    depth: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> AnchorOutputs:
        """Features -> AnchorOutputs, a map per level."""
        class_chain, box_chain = (
            [self._conv(self.channels, f"{name}_{i}") for i in range(self.depth)] for name in ("class", "box")
        )
        classifier = self._conv(self.anchors * self.num_classes, "classifier", START)
        boxes = self._conv(self.anchors * 4, "boxes")
        logits, deltas = [], []
        for x in features.maps:
            logits.append(classifier(_chain(class_chain, x)).astype(jnp.float32))
            deltas.append(boxes(_chain(box_chain, x)).astype(jnp.float32))
        return AnchorOutputs(tuple(logits), tuple(deltas))

    def _conv(self, features: int, name: str, start: nn.initializers.Initializer | None = None) -> Conv:
        return Conv(features, 3, padding=1, dtype=self.dtype, kernel_init=NORMAL, bias_init=start, name=name)


def _chain(layers: list[Conv], x: Array) -> Array:
    for layer in layers:
        x = nn.relu(layer(x))
    return x
