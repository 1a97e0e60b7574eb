"""Boxes worth a second look: the region proposal network (Faster R-CNN, Ren et al., NeurIPS 2015, section 3.1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crosscale.contracts import Array, Features
from crosscale.layers.boxes import base_anchors, decode_boxes, grid_anchors
from crosscale.layers.conv import Conv
from crosscale.layers.kernels import each
from crosscale.layers.nms import nms
from crosscale.models.heads.retina import NORMAL, AnchorOutputs

SCALES = (8.0,)  # of a level's stride
RATIOS = (0.5, 1.0, 2.0)  # height over width
ANCHORS = len(SCALES) * len(RATIOS)  # of a cell


class Proposals(NamedTuple):
    """The best boxes of each image, whatever they show, the best first; rows beyond the real ones are zeros.

    Attributes:
      boxes: (B, P, 4), x0 y0 x1 y1 in pixels of the image fed.
      scores: (B, P), the probability that the box shows an object; above 0 where the box is real.
    """

    boxes: Array
    scores: Array


class ProposalHead(nn.Module):
    """Whether something is there, and its box, for every anchor: one logit and four deltas.

    A 3 x 3 convolution with ReLU and two of 1 x 1, which all levels share.

    Attributes:
      channels: of the first convolution.
      dtype: compute type; what comes out is float32.
    """

    channels: int = 256
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features) -> AnchorOutputs:
        """Features -> AnchorOutputs with one class, a map per level."""
        conv = Conv(self.channels, 3, padding=1, dtype=self.dtype, kernel_init=NORMAL, name="conv")
        classifier = Conv(ANCHORS, 1, dtype=self.dtype, kernel_init=NORMAL, name="classifier")
        boxes = Conv(ANCHORS * 4, 1, dtype=self.dtype, kernel_init=NORMAL, name="boxes")
        logits, deltas = [], []
        for x in features.maps:
            y = nn.relu(conv(x))
            logits.append(classifier(y).astype(jnp.float32))
            deltas.append(boxes(y).astype(jnp.float32))
        return AnchorOutputs(tuple(logits), tuple(deltas))


def proposal_anchors(maps: Sequence[Array], strides: Sequence[int]) -> list[Array]:
    """The anchors of each level, (rows * columns * ANCHORS, 4) in the order of `ProposalHead`'s outputs.

    Args:
      maps: (B, rows, columns, ...) of each level.
      strides: pixels of a cell, of each level.
    """
    return [
        grid_anchors((found.shape[1], found.shape[2]), stride, base_anchors(stride, SCALES, RATIOS))
        for found, stride in zip(maps, strides, strict=True)
    ]


def propose(
    outputs: AnchorOutputs,
    strides: Sequence[int],
    sizes: Array,
    *,
    before_nms: int = 1000,
    count: int = 1000,
    iou_threshold: float = 0.7,
) -> Proposals:
    """The best boxes that remain of all levels. No gradient passes through them.

    Args:
      outputs: of `ProposalHead`.
      strides: pixels of a cell, of each level.
      sizes: (B, 2), each image's height and width without its padding, to which boxes are clipped.
      before_nms: of a level at most, before suppression, which is within a level.
      count: of an image at most. P is this, or as many as the levels have candidates if these are fewer.
      iou_threshold: boxes of a level that overlap a better one by more than this are left out.
    """
    outputs = lax.stop_gradient(outputs)
    anchors = proposal_anchors(outputs.logits, strides)
    most = min(before_nms, max(len(level) for level in anchors))

    def level(logits: Array, deltas: Array, anchors: Array, size: jax.Array) -> tuple[Array, Array]:
        """The best of a level, (most, 4) and (most,); zeros where it has fewer."""
        scores, best = lax.top_k(jax.nn.sigmoid(logits.reshape(-1)), min(most, len(anchors)))
        boxes = decode_boxes(deltas.reshape(-1, 4)[best], anchors[best], size=size)
        missing = most - len(scores)
        return jnp.pad(boxes, ((0, missing), (0, 0))), jnp.pad(scores, (0, missing))

    def remaining(boxes: jax.Array, scores: jax.Array) -> Array:
        return nms(boxes, scores, iou_threshold, valid=(boxes[:, 2:] > boxes[:, :2]).all(-1))

    def one(logits: tuple[Array, ...], deltas: tuple[Array, ...], size: jax.Array) -> Proposals:
        levels = [level(*own, size) for own in zip(logits, deltas, anchors, strict=True)]
        boxes, scores = (jnp.stack(parts) for parts in zip(*levels, strict=True))
        kept = each(remaining)(boxes, scores)
        scores = jnp.where(kept, scores, 0.0).reshape(-1)
        total = sum(min(most, len(level)) for level in anchors)
        scores, best = lax.top_k(scores, min(count, total))
        return Proposals(jnp.where(scores[:, None] > 0, boxes.reshape(-1, 4)[best], 0.0), scores)

    found: Proposals = each(one)(*outputs, jnp.asarray(sizes))
    return found
