"""What every detector is: a backbone's pyramid, a neck, a head that judges every anchor, and its boxes."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import lax

from crosscale.contracts import Array, Features
from crosscale.layers.boxes import base_anchors, box_areas, decode_boxes, grid_anchors
from crosscale.layers.kernels import each
from crosscale.layers.nms import best_nms
from crosscale.models.heads.retina import AnchorOutputs
from crosscale.models.model import ImageModel, one_blank


@struct.dataclass
class Detections:
    """The best boxes of each image, the best first; rows beyond `count` are zeros.

    Attributes:
      boxes: (B, K, 4), x0 y0 x1 y1 in pixels of the image fed.
      scores: (B, K), 0..1.
      labels: (B, K) int32, which class.
      masks: (B, K, m, m), probabilities of the pixels on a grid over each box; None for a model without masks.
      count: (B,) int32, how many are real.
    """

    boxes: Array
    scores: Array
    labels: Array
    masks: Array | None
    count: Array


@struct.dataclass
class AnchorTraining:
    """What a loss reads of all levels, one after the other.

    Attributes:
      logits: (B, N, classes) float32.
      deltas: (B, N, 4) float32.
      anchors: (N, 4) float32, x0 y0 x1 y1 in pixels of the image fed.
    """

    logits: Array
    deltas: Array
    anchors: Array


def own_sizes(images: Array, sizes: Array | None) -> jax.Array:
    """(B, 2): the heights and widths given, or those of the images."""
    whole = jnp.broadcast_to(jnp.asarray(images.shape[1:3]), (images.shape[0], 2))
    return whole if sizes is None else jnp.asarray(sizes)


def kept_boxes(
    boxes: jax.Array, scores: jax.Array, labels: jax.Array, valid: jax.Array, overlap: float, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One image's best boxes after suppression within each class: boxes, scores, labels, and which are real.

    Args:
      boxes: (N, 4).
      scores: (N,).
      labels: (N,) int32.
      valid: (N,) bool, those that are looked at.
      overlap: boxes of a class that overlap a better one by more than this are left out.
      count: rows of what comes out; those that are not real are zeros.
    """
    best, real = best_nms(boxes, scores, overlap, count, labels=labels, valid=valid)
    return (
        jnp.where(real[:, None], boxes[best], 0.0),
        jnp.where(real, scores[best], 0.0),
        jnp.where(real, labels[best], 0),
        real,
    )


class Detector(ImageModel):
    """Base of all detectors: a neck between backbone and head, and `detect`, which gives boxes."""

    usual_task: ClassVar[str] = "detection"

    def setup(self) -> None:
        super().setup()
        self.neck = self.make_neck()

    @nn.nowrap
    def make_neck(self) -> nn.Module:
        """(Features, train) -> Features, what the head reads."""
        raise NotImplementedError

    @nn.nowrap
    def new_parts(self) -> tuple[str, ...]:
        return "neck/", "head/"

    def packed(self, images: Array, train: bool = False, sizes: Array | None = None, **options: Any) -> Array:
        """What `detect` gives as one array, (B, K, 6) float32: x0 y0 x1 y1, score, label; zeros where there is none.

        Corners are shares of the picture's width and height, without what fills it up. A model with masks gives (B, K,
        6 + S * S), each mask's values behind the label.

        Args:
          train: has no effect.
          **options: those of `detect`.
        """
        sides = own_sizes(images, sizes)
        found = self.detect(images, sides, **options)

        def one(found: Detections, size: jax.Array) -> jax.Array:
            corners = jnp.maximum(jnp.stack([size[1], size[0], size[1], size[0]]), 1)  # of padding they are 0
            columns = [found.boxes / corners, found.scores[:, None], found.labels[:, None]]
            if found.masks is not None:
                columns.append(found.masks.reshape(len(found.scores), -1))
            return jnp.concatenate([column.astype(jnp.float32) for column in columns], -1)

        packed: Array = each(one)(found, sides)
        return packed


class AnchorDetector(Detector):
    """Base of the detectors that classify anchors: `__call__` gives what the head says, `detect` the boxes.

    A family builds its backbone, neck and head. Parameters live under "backbone/...", "neck/..." and "head/...".
    """

    scales: ClassVar[tuple[float, ...]] = tuple(4 * 2 ** (octave / 3) for octave in range(3))  # of a level's stride
    ratios: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)  # height over width

    @nn.nowrap
    def classifiers(self) -> tuple[str, ...]:
        return ("head/classifier/",)

    @nn.nowrap
    def classes_of(self, name: str, width: int) -> int:
        return width // (len(self.scales) * len(self.ratios))  # every anchor has all of them

    def __call__(self, images: Array, train: bool = False) -> AnchorOutputs:  # type: ignore[override]
        """(B, H, W, channels) normalised images -> what the head says of every anchor, float32.

        Args:
          images: float, NHWC, normalised with the mean and deviation that belong to the weights.
          train: turns dropout and stochastic depth on; needs `rngs={"dropout": key}`.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        if images.shape[:1] == (0,):
            none: AnchorOutputs = jax.tree.map(lambda leaf: leaf[:0], self(one_blank(images), train))
            return none
        return self.decode(self.backbone(images, train), train)

    def decode(self, features: Features, train: bool = False) -> AnchorOutputs:  # type: ignore[override]
        """What the head makes of what `features` gave."""
        outputs: AnchorOutputs = self.head(self.neck(features, train), train)
        return outputs

    def training_outputs(self, images: Array, train: bool = True) -> AnchorTraining:
        """(B, H, W, channels) -> what the head says of every anchor, and the anchors."""
        read = self.neck(self.backbone(images, train), train)
        outputs: AnchorOutputs = self.head(read, train)
        anchors = self._anchors(read)
        logits, deltas = (
            jnp.concatenate(
                [level.reshape(len(level), len(own), -1) for level, own in zip(levels, anchors, strict=True)], 1
            )
            for levels in outputs
        )
        return AnchorTraining(logits.astype(jnp.float32), deltas.astype(jnp.float32), jnp.concatenate(anchors))

    @nn.nowrap
    def _anchors(self, read: Features) -> list[Array]:
        """The anchors of each level that the head reads."""
        return [
            grid_anchors((found.shape[1], found.shape[2]), stride, base_anchors(stride, self.scales, self.ratios))
            for found, stride in zip(read.maps, read.strides, strict=True)
        ]

    def detect(
        self,
        images: Array,
        sizes: Array | None = None,
        *,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        count: int = 100,
        candidates: int = 1000,
    ) -> Detections:
        """(B, H, W, channels) normalised images -> their boxes.

        Each level gives the `candidates` best pairs of an anchor and a class whose probability is above the threshold;
        boxes without area are left out, as mmdetection 3 does; then suppression within each class over all levels.

        Args:
          images: see `__call__`.
          sizes: (B, 2), each image's height and width without its padding, to which boxes are clipped; None: the whole.
          score_threshold: 0..1.
          iou_threshold: boxes of a class that overlap a better one by more than this are left out.
          count: boxes of an image at most.
          candidates: of a level at most.

        Raises:
          RequestError: the images' shape does not fit the model.
        """
        if images.shape[:1] == (0,):
            none: Detections = jax.tree.map(lambda leaf: leaf[:0], self.detect(one_blank(images), count=count))
            return none
        limits = own_sizes(images, sizes)
        read = self.neck(self.backbone(images, False), False)
        outputs: AnchorOutputs = self.head(read, False)
        anchors = self._anchors(read)

        def one(logits: tuple[Array, ...], deltas: tuple[Array, ...], size: jax.Array) -> Detections:
            levels = [
                self._candidates(*level, size, score_threshold, candidates)
                for level in zip(logits, deltas, anchors, strict=True)
            ]
            boxes, scores, labels = (jnp.concatenate(parts) for parts in zip(*levels, strict=True))
            valid = (scores > score_threshold) & (box_areas(boxes) > 0)
            boxes, scores, labels, real = kept_boxes(boxes, scores, labels, valid, iou_threshold, count)
            return Detections(boxes, scores, labels, None, real.sum(dtype=jnp.int32))

        found: Detections = each(one)(*outputs, limits)
        return found

    @nn.nowrap
    def _candidates(
        self, logits: Array, deltas: Array, anchors: Array, size: jax.Array, threshold: float, most: int
    ) -> tuple[Array, Array, Array]:
        """One image's best pairs of a level: boxes, scores, labels; scores below the threshold fill up."""
        scores = jax.nn.sigmoid(logits.astype(jnp.float32)).reshape(-1)
        classes = len(scores) // len(anchors)
        found, pairs = lax.top_k(jnp.where(scores > threshold, scores, -1.0), min(most, len(scores)))
        which = pairs // classes
        boxes = decode_boxes(deltas.astype(jnp.float32).reshape(-1, 4)[which], anchors[which], size=size)
        return boxes, found, (pairs % classes).astype(jnp.int32)
