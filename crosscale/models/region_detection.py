"""What a detector of two stages is: proposals of a pyramid's anchors, and what each of them shows."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.boxes import decode_boxes
from crosscale.layers.kernels import each
from crosscale.models.detection import Detections, Detector, kept_boxes, own_sizes
from crosscale.models.heads.proposals import Proposals, proposal_anchors
from crosscale.models.heads.regions import STD, RegionHead, RegionOutputs
from crosscale.models.heads.retina import AnchorOutputs
from crosscale.models.model import one_blank

LEARNT, LEARNT_MASKS = 512, 128  # boxes of a picture that the heads learn from; those of them that may show an object


class RegionTraining(NamedTuple):
    """What the losses of a detector of two stages read.

    Attributes:
      outputs: what is said of every anchor, a map per level.
      anchors: (N, 4), those of all levels, x0 y0 x1 y1 in pixels of the image fed.
      sample: the boxes learnt from, as `choose` gave them.
      logits: (B, S, classes + 1) of these.
      deltas: (B, S, classes, 4).
      masks: (B, M, 28, 28, classes) logits of the first M of them.
    """

    outputs: AnchorOutputs
    anchors: Array
    sample: Any
    logits: Array
    deltas: Array
    masks: Array


def first_proposals(proposals: Proposals) -> Proposals:
    """The best `LEARNT` of each image, (B, S, 4) boxes."""
    return Proposals(*(part[:, :LEARNT] for part in proposals))


class RegionDetector(Detector):
    """Base of the detectors of two stages: `__call__` gives what the heads say, `detect` the boxes and their masks.

    A family builds its backbone, neck and head. Parameters live under "backbone/...", "neck/..." and "head/...".
    """

    usual_task: ClassVar[str] = "instances"
    takes_task_head: ClassVar[bool] = False

    @nn.nowrap
    def make_head(self) -> RegionHead:
        raise NotImplementedError

    @nn.nowrap
    def classifiers(self) -> tuple[str, ...]:
        return "head/boxes/classifier/", "head/boxes/boxes/", "head/masks/classifier/"

    @nn.nowrap
    def classes_of(self, name: str, width: int) -> int:
        if name.startswith("head/boxes/boxes/"):
            return width // 4  # a box for every class
        return width - 1 if name.startswith("head/boxes/classifier/") else width  # the last one is none

    def __call__(  # type: ignore[override]
        self, images: Array, train: bool = False, sizes: Array | None = None
    ) -> RegionOutputs:
        """(B, H, W, channels) normalised images -> what the heads say, float32.

        Args:
          images: float, NHWC, normalised with the mean and deviation that belong to the weights.
          train: turns dropout and stochastic depth on; needs `rngs={"dropout": key}`.
          sizes: (B, 2), each image's height and width without its padding, to which proposals are clipped; None: the
            whole.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        if images.shape[:1] == (0,):
            none: RegionOutputs = jax.tree.map(lambda leaf: leaf[:0], self(one_blank(images), train))
            return none
        return self.decode(self.backbone(images, train), train, own_sizes(images, sizes))

    def decode(  # type: ignore[override]
        self, features: Features, train: bool = False, sizes: Array | None = None
    ) -> RegionOutputs:
        """What the heads make of what `features` gave; `sizes` as in `__call__`."""
        outputs: RegionOutputs = self.head(self.neck(features, train), train, sizes)
        return outputs

    def detect(
        self,
        images: Array,
        sizes: Array | None = None,
        *,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        count: int = 100,
    ) -> Detections:
        """(B, H, W, channels) normalised images -> their boxes, each with a mask of its own.

        Each class of a proposal whose probability is above the threshold has a box; then suppression within each
        class. A mask has the probabilities of the box's class on a grid over the box: `layers.roi_align.paste_masks`
        draws it into the picture, and what is at least one half belongs to the object.

        Args:
          images: see `__call__`.
          sizes: see `__call__`; boxes are clipped to them.
          score_threshold: 0..1.
          iou_threshold: boxes of a class that overlap a better one by more than this are left out.
          count: boxes of an image at most.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        if images.shape[:1] == (0,):
            none: Detections = jax.tree.map(lambda leaf: leaf[:0], self.detect(one_blank(images), count=count))
            return none
        limits = own_sizes(images, sizes)
        read = self.neck(self.backbone(images, False), False)
        _, proposals = self.head.propose(read, limits)
        logits, deltas = self.head.read_boxes(read, proposals.boxes)

        def one(found: Proposals, logits: jax.Array, deltas: jax.Array, size: Array) -> tuple[Array, ...]:
            return _best(found, logits, deltas, jnp.asarray(size), score_threshold, iou_threshold, count)

        boxes, scores, labels, real = each(one)(proposals, logits, deltas, limits)
        masks = self.head.read_masks(read, boxes)
        own = jnp.take_along_axis(masks, labels[:, :, None, None, None], -1)[..., 0]
        masks = jnp.where(real[:, :, None, None], jax.nn.sigmoid(own), 0.0)
        return Detections(boxes, scores, labels, masks, real.sum(1, dtype=jnp.int32))

    def training_outputs(
        self,
        images: Array,
        train: bool = True,
        *,
        sizes: Array | None = None,
        choose: Callable[[Proposals], Any] = first_proposals,
        masks: int = LEARNT_MASKS,
        before_nms: int | None = None,
    ) -> RegionTraining:
        """What the losses read: proposals, those of them that `choose` takes, and what the heads say of these.

        Args:
          images: see `__call__`.
          train: turns dropout and stochastic depth on; needs `rngs={"dropout": key}`.
          sizes: see `__call__`.
          choose: from proposals to what has `boxes`, (B, S, 4), those that show an object first
            (`tasks.detection.roi_loss.chooser`); where nobody says, as many as are learnt, whatever they show.
          masks: for how many of them masks are learnt; at least as many as show an object.
          before_nms: candidates of a level at most; None: twice as many as otherwise, as in the released code.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        read = self.neck(self.backbone(images, train), train)
        limit = 2 * self.head.proposals_before_nms if before_nms is None else before_nms
        outputs, proposals = self.head.propose(read, own_sizes(images, sizes), limit)
        anchors = jnp.concatenate(proposal_anchors(read.maps, read.strides))
        sample = choose(proposals)
        logits, deltas = self.head.read_boxes(read, sample.boxes)
        seen = self.head.read_masks(read, sample.boxes[:, :masks])
        return RegionTraining(outputs, anchors, sample, logits, deltas, seen)


def _best(
    proposals: Proposals,
    logits: jax.Array,
    deltas: jax.Array,
    size: jax.Array,
    threshold: float,
    overlap: float,
    count: int,
) -> tuple[Array, Array, Array, Array]:
    """One image's best boxes: (count, 4) boxes, scores, labels, and which are real; the others are zeros."""
    classes = deltas.shape[1]
    scores = jax.nn.softmax(logits)[:, :classes]
    boxes = decode_boxes(deltas, jnp.asarray(proposals.boxes)[:, None], STD, size)
    valid = (scores > threshold) & (proposals.scores > 0)[:, None]
    labels = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32), scores.shape).reshape(-1)
    return kept_boxes(boxes.reshape(-1, 4), scores.reshape(-1), labels, valid.reshape(-1), overlap, count)
