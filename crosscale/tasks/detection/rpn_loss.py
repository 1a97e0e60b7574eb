"""What proposals learn: which of a random choice of anchors show an object, and where it is.

Ren et al.: Faster R-CNN, NeurIPS 2015, sections 3.1.2 and 3.1.3, as mmdetection has it. All shapes are fixed: objects
that fill up have the label -1.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from crosscale.contracts import Array
from crosscale.layers.boxes import box_iou, encode_boxes, match_boxes, sample_boxes
from crosscale.models.heads.retina import AnchorOutputs
from crosscale.tasks.detection.matching import in_picture

POSITIVE, NEGATIVE = 0.7, 0.3  # overlaps from which an anchor is an object, and below which it is background
LOWEST = 0.3  # an object's best anchors are its own from this overlap on
COUNT, SHARE = 256, 0.5  # anchors learnt from, and of them at most this share objects

# By name: (B,) sums over each picture, and (B,) what they are divided by when both are summed (`averaged`).
LossParts = dict[str, tuple[Array, Array]]


class AnchorSample(NamedTuple):
    """The anchors that a picture is learnt from; in a batch each has an axis in front.

    Attributes:
      anchors: (S,) their places.
      real: (S,) bool; the others fill up.
      positive: (S,) bool, those that show an object.
      deltas: (S, 4), what the head should say of their boxes; zeros for the others.
    """

    anchors: Array
    real: Array
    positive: Array
    deltas: Array


def sample_anchors(
    key: Array,
    anchors: jax.Array,
    boxes: jax.Array,
    real: jax.Array,
    size: Array,
    *,
    count: int = COUNT,
    share: float = SHARE,
) -> AnchorSample:
    """Matches one picture's anchors with its objects by their largest overlap, and chooses some at random.

    Args:
      key: of the choice.
      anchors: (N, 4), of all levels.
      boxes: (M, 4) in pixels of the image fed.
      real: (M,) bool, see `matching.learnable`.
      size: (2,) height and width of the image without its padding.
      count: how many; fewer are real where there are fewer.
      share: 0..1, of objects at most; background fills up.
    """
    overlaps = box_iou(boxes, anchors)
    inside = in_picture(anchors, size)
    matched = match_boxes(overlaps, real, positive=POSITIVE, negative=NEGATIVE, lowest=LOWEST, candidates=inside)
    chosen, taken = sample_boxes(jnp.asarray(key), matched, count, share)
    positive = taken & (matched[chosen] > 0)
    own = anchors[chosen]
    aims = jnp.where(positive[:, None], boxes[jnp.maximum(matched[chosen] - 1, 0)], own)
    return AnchorSample(chosen, taken, positive, encode_boxes(aims, own))


def rpn_losses(outputs: AnchorOutputs, sample: AnchorSample) -> LossParts:
    """ "proposal_objects", cross-entropy, and "proposal_boxes", L1 of the deltas of those that show an object.

    Both are divided by the number of anchors learnt from; a picture without objects among them counts one for these,
    as in the released code.

    Args:
      outputs: of a batch, one class.
      sample: likewise.
    """
    logits = jnp.concatenate([level.reshape(len(level), -1) for level in outputs.logits], 1)
    deltas = jnp.concatenate([level.reshape(len(level), -1, 4) for level in outputs.deltas], 1)
    logits = jnp.take_along_axis(logits, sample.anchors, 1)
    deltas = jnp.take_along_axis(deltas, sample.anchors[..., None], 1)
    objects = optax.sigmoid_binary_cross_entropy(logits, sample.positive.astype(logits.dtype))
    boxes = jnp.abs(deltas - sample.deltas).sum(-1)
    background = sample.real & ~sample.positive
    count = jnp.maximum(sample.positive.sum(1), 1) + jnp.maximum(background.sum(1), 1)
    return {
        "proposal_objects": (jnp.where(sample.real, objects, 0.0).sum(1), count),
        "proposal_boxes": (jnp.where(sample.positive, boxes, 0.0).sum(1), count),
    }


def averaged(parts: Mapping[str, tuple[Array, Array]], weight: Array | None = None) -> dict[str, Array]:
    """Each loss of a batch: its sum over its count, where pictures of weight 0 count for nothing.

    The counts are the whole batch's; mmdetection has those of each device's pictures.
    """
    found = {}
    for name, (sums, counts) in parts.items():
        if weight is not None:
            sums, counts = (jnp.where(weight > 0, values, 0) for values in (sums, counts))
        found[name] = sums.sum() / jnp.maximum(counts.sum(), 1)
    return found
