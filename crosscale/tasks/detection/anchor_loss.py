"""What a detector that classifies anchors learns: which anchor is which object, and the losses of both heads.

Lin et al.: Focal Loss for Dense Object Detection, ICCV 2017, sections 3 and 4, as mmdetection has it. All shapes are
fixed: objects that fill up have the label -1.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from crosscale.layers.boxes import box_iou, decode_boxes, encode_boxes, generalized_box_iou, match_boxes
from crosscale.tasks.detection.matching import in_picture, learnable

Array = jax.Array

POSITIVE, NEGATIVE = 0.5, 0.4  # overlaps from which an anchor is an object, and below which it is background
GAMMA, ALPHA = 2.0, 0.25  # of the focal loss

BoxLoss = Literal["l1", "giou"]


class AnchorTargets(NamedTuple):
    """What each of a picture's N anchors should say.

    Attributes:
      matched: (N,) int32; -1 counts for nothing, 0 is background, k + 1 is object k.
      labels: (N,) int32, the matched object's; -1 where there is none.
      boxes: (N, 4), the matched object's; the anchor itself where there is none.
    """

    matched: Array
    labels: Array
    boxes: Array


def anchor_targets(anchors: Array, boxes: Array, labels: Array, crowd: Array, size: Array) -> AnchorTargets:
    """Matches one picture's anchors with its objects by their largest overlap.

    Crowds are not learnt, nor counted against the model where an anchor happens to lie on one: they are left out, as in
    the released code.

    Args:
      anchors: (N, 4), of all levels.
      boxes: (M, 4) in pixels of the image fed.
      labels: (M,), -1 where there is no object.
      crowd: (M,) bool.
      size: (2,) height and width of the image without what fills it up.
    """
    real, inside = learnable(boxes, labels, crowd), in_picture(anchors, size)
    overlaps = box_iou(boxes, anchors)
    matched = match_boxes(overlaps, real, positive=POSITIVE, negative=NEGATIVE, lowest=0.0, candidates=inside)
    which = jnp.maximum(matched - 1, 0)
    learnt = matched > 0
    return AnchorTargets(
        matched.astype(jnp.int32),
        jnp.where(learnt, labels[which], -1).astype(jnp.int32),
        jnp.where(learnt[:, None], boxes[which], anchors),
    )


def anchor_losses(
    logits: Array, deltas: Array, anchors: Array, targets: AnchorTargets, box_loss: BoxLoss = "l1"
) -> tuple[Array, Array, Array]:
    """In one picture: the summed focal loss, the summed loss of the boxes, the anchors that are objects (1 at least).

    Args:
      logits: (N, classes).
      deltas: (N, 4).
      anchors: (N, 4).
      targets: of the anchors.
      box_loss: "l1" of the deltas, or "giou": 1 - generalised IoU of the boxes that they mean.
    """
    counts, learnt = targets.matched >= 0, targets.matched > 0
    wanted = targets.labels[:, None] == jnp.arange(logits.shape[-1])[None]
    focal = optax.sigmoid_focal_loss(logits, wanted.astype(logits.dtype), alpha=ALPHA, gamma=GAMMA)
    classes = jnp.where(counts[:, None], focal, 0.0).sum()
    if box_loss == "giou":
        off = 1 - generalized_box_iou(decode_boxes(deltas, anchors), targets.boxes)
    else:
        off = jnp.abs(deltas - encode_boxes(targets.boxes, anchors)).sum(-1)
    return classes, jnp.where(learnt, off, 0.0).sum(), jnp.maximum(learnt.sum(), 1).astype(jnp.float32)


def batch_losses(
    logits: Array,
    deltas: Array,
    anchors: Array,
    objects: dict[str, Array],
    weight: Array,
    box_loss: BoxLoss = "l1",
) -> tuple[Array, Array, Array]:
    """In a batch: both losses summed over its pictures of weight above 0, and the anchors that are objects in these.

    Both are divided by that last number: one of the whole batch, where mmdetection has one for each device's pictures.

    Args:
      logits: (B, N, classes).
      deltas: (B, N, 4).
      anchors: (N, 4).
      objects: "boxes" (B, M, 4), "labels" (B, M), "crowd" (B, M) and "size" (B, 2); see `anchor_targets`.
      weight: (B,).
    """

    def one(logits: Array, deltas: Array, boxes: Array, labels: Array, crowd: Array, size: Array) -> tuple[Array, ...]:
        targets = anchor_targets(anchors, boxes, labels, crowd, size)
        return anchor_losses(logits, deltas, anchors, targets, box_loss)

    given = (objects[name] for name in ("boxes", "labels", "crowd", "size"))
    classes, boxes, positives = jax.vmap(one)(logits, deltas, *given)
    real = weight > 0
    sums = (jnp.where(real, values, 0.0).sum() for values in (classes, boxes, positives))
    return tuple(sums)  # type: ignore[return-value]
