"""What the heads over proposals learn: the class, the box and the mask of a random choice of them.

Girshick: Fast R-CNN, ICCV 2015, section 2.3, and He et al.: Mask R-CNN, ICCV 2017, section 3, as mmdetection has them.
All shapes are fixed: objects that fill up have the label -1.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from crosscale.contracts import Array
from crosscale.layers.boxes import box_iou, encode_boxes, match_boxes, sample_boxes
from crosscale.layers.roi_align import cut_masks
from crosscale.models.heads.proposals import Proposals
from crosscale.models.heads.regions import STD
from crosscale.models.region_detection import LEARNT, RegionTraining
from crosscale.tasks.detection import rpn_loss
from crosscale.tasks.detection.matching import learnable
from crosscale.tasks.detection.rpn_loss import AnchorSample, LossParts, rpn_losses, sample_anchors

OVERLAP = 0.5  # from which a proposal is an object; an object's best ones of as much are its own
COUNT, SHARE = LEARNT, 0.25  # proposals learnt from, and of them at most this share objects


class RegionSample(NamedTuple):
    """The boxes that a picture is learnt from, those that show an object first; in a batch each has an axis in front.

    Attributes:
      boxes: (S, 4); zeros where they fill up.
      real: (S,) bool; the others fill up.
      positive: (S,) bool, those that show an object.
      labels: (S,) int32, the object's; the number of classes for the others.
      objects: (S,) int32, which of the picture's objects; 0 for the others.
      deltas: (S, 4), what the head should say of their boxes; zeros for the others.
    """

    boxes: Array
    real: Array
    positive: Array
    labels: Array
    objects: Array
    deltas: Array


def sample_regions(
    key: Array,
    proposals: Proposals,
    boxes: jax.Array,
    labels: jax.Array,
    real: jax.Array,
    classes: int,
    *,
    count: int = COUNT,
    share: float = SHARE,
) -> RegionSample:
    """Matches one picture's proposals, and its objects themselves, with the objects, and chooses some at random.

    Args:
      key: of the choice.
      proposals: (P, 4) boxes and (P,) scores.
      boxes: (M, 4) in pixels of the image fed.
      labels: (M,).
      real: (M,) bool, see `matching.learnable`.
      classes: how many.
      count: how many boxes; fewer are real where there are fewer.
      share: 0..1, of objects at most; background fills up.
    """
    found = jnp.asarray(proposals.boxes)
    matched = match_boxes(
        box_iou(boxes, found),
        real,
        positive=OVERLAP,
        negative=OVERLAP,
        lowest=OVERLAP,
        candidates=jnp.asarray(proposals.scores) > 0,
    )
    itself = jnp.where(real, jnp.arange(1, len(boxes) + 1), -1)
    matched, candidates = jnp.concatenate([itself, matched]), jnp.concatenate([boxes, found])
    chosen, taken = sample_boxes(jnp.asarray(key), matched, count, share)
    positive = taken & (matched[chosen] > 0)
    objects = jnp.where(positive, matched[chosen] - 1, 0)
    own = candidates[chosen]
    unit = jnp.array([0.0, 0, 1, 1])  # its sides have a logarithm, unlike those of a box that fills up
    aims, starts = (jnp.where(positive[:, None], box, unit) for box in (boxes[objects], own))
    return RegionSample(
        jnp.where(taken[:, None], own, 0.0),
        taken,
        positive,
        jnp.where(positive, labels[objects], classes).astype(jnp.int32),
        objects.astype(jnp.int32),
        encode_boxes(aims, starts, STD),
    )


def chooser(
    key: Array, objects: Mapping[str, Array], classes: int, *, count: int = COUNT, share: float = SHARE
) -> Callable[[Proposals], RegionSample]:
    """What `RegionDetector.training_outputs` takes as `choose`: `sample_regions` of each picture of a batch.

    Args:
      key: of the choice.
      objects: "boxes" (B, M, 4), "labels" (B, M) and "crowd" (B, M).
      classes, count, share: see `sample_regions`.
    """
    boxes, labels = jnp.asarray(objects["boxes"]), jnp.asarray(objects["labels"])
    real = learnable(boxes, labels, objects["crowd"])

    def one(key: Array, proposals: Proposals, boxes: Any, labels: Any, real: Any) -> RegionSample:
        return sample_regions(key, proposals, boxes, labels, real, classes, count=count, share=share)

    def choose(proposals: Proposals) -> RegionSample:
        found: RegionSample = jax.vmap(one)(jax.random.split(key, len(boxes)), proposals, boxes, labels, real)
        return found

    return choose


def box_losses(logits: Array, deltas: Array, sample: RegionSample) -> LossParts:
    """ "classes", cross-entropy, and "boxes", L1 of the deltas of an object's own class; both divided by the boxes.

    Args:
      logits: (B, S, classes + 1).
      deltas: (B, S, classes, 4).
      sample: of a batch.
    """
    classes = optax.softmax_cross_entropy_with_integer_labels(logits, sample.labels)
    label = jnp.minimum(sample.labels, deltas.shape[2] - 1)  # any for background, which counts for nothing
    own = jnp.take_along_axis(deltas, label[..., None, None], 2)[:, :, 0]
    boxes = jnp.abs(own - sample.deltas).sum(-1)
    count = sample.real.sum(1)
    return {
        "classes": (jnp.where(sample.real, classes, 0.0).sum(1), count),
        "boxes": (jnp.where(sample.positive, boxes, 0.0).sum(1), count),
    }


def mask_targets(masks: Array, frames: Array, sample: RegionSample, count: int, side: int = 28) -> Array:
    """(B, count, side, side) float32, 0 or 1: the objects' masks within the first `count` boxes, half or more of a
    cell.

    Args:
      masks: (B, M, S, ceil(S / 8)) uint8 and
      frames: (B, M, 4): masks cut out of their pictures (`crosscale.data.cut_masks.cut_out`).
      sample: of a batch.
    """

    def own(values: Array) -> jax.Array:
        """(B, M, ...) -> (B * count, ...), those of each box's object."""
        found: jax.Array = jax.vmap(lambda rows, which: rows[which])(jnp.asarray(values), sample.objects[:, :count])
        return found.reshape(-1, *values.shape[2:])

    cells = masks.shape[2]
    bitmaps, frame = jnp.unpackbits(own(masks), axis=-1, count=cells), own(frames)
    first, sides = frame[:, [0, 1, 0, 1]], (frame[:, 2:] - frame[:, :2])[:, [0, 1, 0, 1]]
    boxes = jnp.asarray(sample.boxes)[:, :count].reshape(-1, 4)
    placed = (boxes - first) * jnp.minimum(sides, cells) / jnp.maximum(sides, 1)
    soft = cut_masks(bitmaps, placed, side)
    return (soft >= 0.5).astype(jnp.float32).reshape(len(masks), -1, side, side)


def mask_losses(logits: Array, targets: Array, sample: RegionSample) -> LossParts:
    """ "masks": cross-entropy of an object's own class, a mean over a box's pixels; divided by the boxes of objects.

    Args:
      logits: (B, M, h, w, classes), of the first M boxes.
      targets: (B, M, h, w), 0 or 1.
      sample: of a batch.
    """
    positive, labels = (part[:, : targets.shape[1]] for part in (sample.positive, sample.labels))
    label = jnp.minimum(labels, logits.shape[-1] - 1)
    own = jnp.take_along_axis(logits, label[:, :, None, None, None], -1)[..., 0]
    each = optax.sigmoid_binary_cross_entropy(own, targets).mean((2, 3))
    return {"masks": (jnp.where(positive, each, 0.0).sum(1), positive.sum(1))}


def all_losses(
    key: Array,
    found: RegionTraining,
    objects: Mapping[str, Array],
    *,
    count: int = rpn_loss.COUNT,
    share: float = rpn_loss.SHARE,
) -> LossParts:
    """The five losses of a batch; `rpn_loss.averaged` makes them numbers, whose sum is learnt.

    Args:
      key: of the choice of anchors.
      found: what `RegionDetector.training_outputs` gave with a `chooser`.
      objects: "boxes" (B, M, 4), "labels" (B, M), "crowd" (B, M), "size" (B, 2), "masks" and "frames", see
        `mask_targets`.
      count: anchors that are chosen, see `rpn_loss.sample_anchors`.
      share: likewise.
    """
    boxes = jnp.asarray(objects["boxes"])
    real = learnable(boxes, objects["labels"], objects["crowd"])
    anchors = jnp.asarray(found.anchors)

    def one(key: Array, boxes: Any, real: Any, size: Array) -> AnchorSample:
        return sample_anchors(key, anchors, boxes, real, size, count=count, share=share)

    sample = jax.vmap(one)(jax.random.split(key, len(boxes)), boxes, real, objects["size"])
    targets = mask_targets(objects["masks"], objects["frames"], found.sample, *found.masks.shape[1:3])
    return {
        **rpn_losses(found.outputs, sample),
        **box_losses(found.logits, found.deltas, found.sample),
        **mask_losses(found.masks, targets, found.sample),
    }
