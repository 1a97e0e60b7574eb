"""Mask R-CNN's heads: proposals, and what each of them shows, where exactly, and in which of its pixels (He et al.,
ICCV 2017; on a feature pyramid as in Lin et al., CVPR 2017, section 5)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.conv import Conv
from crosscale.layers.initializers import HE_NORMAL, XAVIER_UNIFORM, normal
from crosscale.layers.roi_align import pyramid_levels, roi_align
from crosscale.models.heads.proposals import ProposalHead, Proposals, propose
from crosscale.models.heads.retina import NORMAL, AnchorOutputs

BOX_SIDE = 7  # bins along a side that the box head reads
MASK_SIDE = 14  # and the mask head, whose masks have twice as many
MASKS = 100  # proposals whose masks are among the raw outputs, as the released code counts its operations
FINEST = 14  # cells of the finest map along the side of a box that is halfway to the second level
STD = (0.1, 0.1, 0.2, 0.2)  # of the box head's deltas
SMALL_NORMAL = normal(0.001)


class RegionOutputs(NamedTuple):
    """What the heads say, before anything is chosen.

    Attributes:
      anchors: of every anchor, a map per level.
      proposals: (B, P, 4), the best anchors' boxes, clipped to the picture; zeros where there are fewer than P.
      scores: (B, P), their probabilities of showing an object; 0 where there are fewer.
      logits: (B, P, classes + 1) of each proposal; the last is that of none.
      deltas: (B, P, classes, 4), by how much its box would differ in that class (`STD`).
      masks: (B, min(P, 100), 2 * 14, 2 * 14, classes), logits of the pixels of the first proposals.
    """

    anchors: AnchorOutputs
    proposals: Array
    scores: Array
    logits: Array
    deltas: Array
    masks: Array


class BoxHead(nn.Module):
    """A logit of every class and of none, and a box for every class: two layers with ReLU, and a last one for each.

    Attributes:
      num_classes: classes.
      channels: of the two layers.
      dtype: compute type; what comes out is float32.
    """

    num_classes: int
    channels: int = 1024
    dtype: Any = None

    @nn.compact
    def __call__(self, regions: Array) -> tuple[Array, Array]:
        """(R, 7, 7, C) -> (R, classes + 1) and (R, classes, 4)."""
        x = regions.reshape(regions.shape[0], -1)
        for i in range(2):
            x = nn.relu(nn.Dense(self.channels, dtype=self.dtype, kernel_init=XAVIER_UNIFORM, name=f"dense_{i}")(x))
        logits = nn.Dense(self.num_classes + 1, dtype=self.dtype, kernel_init=NORMAL, name="classifier")(x)
        deltas = nn.Dense(self.num_classes * 4, dtype=self.dtype, kernel_init=SMALL_NORMAL, name="boxes")(x)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32).reshape(x.shape[0], self.num_classes, 4)


class MaskHead(nn.Module):
    """A logit of every class for every pixel of a region: convolutions with ReLU, and one that doubles the side.

    Attributes:
      num_classes: classes.
      channels: of the convolutions.
      depth: convolutions of 3 x 3 before the side is doubled.
      dtype: compute type; what comes out is float32.
    """

    num_classes: int
    channels: int = 256
    depth: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, regions: Array) -> Array:
        """(R, h, w, C) -> (R, 2h, 2w, classes)."""
        x = regions
        for i in range(self.depth):
            conv = Conv(self.channels, 3, padding=1, dtype=self.dtype, kernel_init=HE_NORMAL, name=f"conv_{i}")
            x = nn.relu(conv(x))
        x = nn.relu(Doubled(self.channels, self.dtype, name="upsample")(x))
        last = Conv(self.num_classes, 1, dtype=self.dtype, kernel_init=HE_NORMAL, name="classifier")
        return last(x).astype(jnp.float32)


class Doubled(nn.Module):
    """A transposed convolution of 2 x 2 with stride 2: each cell becomes four, each by a matrix of its own."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(R, h, w, C) -> (R, 2h, 2w, features)."""
        rows, columns, channels = x.shape[1:]
        kernel = self.param("kernel", HE_NORMAL, (2, 2, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jnp.einsum("rhwc,ijcf->rhiwjf", x, kernel)
        return y.reshape(x.shape[0], 2 * rows, 2 * columns, self.features) + bias


class RegionHead(nn.Module):
    """The three heads over a pyramid whose coarsest map the proposals alone read.

    Attributes:
      num_classes: classes.
      anchor_channels: of the proposals' head.
      fc_channels: of the box head's layers.
      mask_channels: of the mask head's convolutions.
      proposals_before_nms: candidates of a level at most.
      proposals: of an image at most.
      dtype: compute type; what comes out is float32.
    """

    num_classes: int
    anchor_channels: int = 256
    fc_channels: int = 1024
    mask_channels: int = 256
    proposals_before_nms: int = 1000
    proposals: int = 1000
    dtype: Any = None

    def setup(self) -> None:
        self.anchors = ProposalHead(self.anchor_channels, self.dtype)
        self.boxes = BoxHead(self.num_classes, self.fc_channels, self.dtype)
        self.masks = MaskHead(self.num_classes, self.mask_channels, dtype=self.dtype)

    def __call__(self, features: Features, train: bool = False, sizes: Array | None = None) -> RegionOutputs:
        """Features -> RegionOutputs.

        Args:
          features: a pyramid, fine to coarse.
          train: has no effect here.
          sizes: (B, 2), see `propose`; None: the finest map's, in pixels.
        """
        if sizes is None:
            finest, stride = features.maps[0], features.strides[0]
            whole = (finest.shape[1] * stride, finest.shape[2] * stride)
            sizes = jnp.broadcast_to(jnp.asarray(whole), (finest.shape[0], 2))
        anchors, found = self.propose(features, sizes)
        logits, deltas = self.read_boxes(features, found.boxes)
        masks = self.read_masks(features, found.boxes[:, :MASKS])
        return RegionOutputs(anchors, *found, logits, deltas, masks)

    def propose(
        self, features: Features, sizes: Array, before_nms: int | None = None
    ) -> tuple[AnchorOutputs, Proposals]:
        """What is said of every anchor, and the best of them: see `proposals.propose`."""
        outputs: AnchorOutputs = self.anchors(features)
        limit = self.proposals_before_nms if before_nms is None else before_nms
        return outputs, propose(outputs, features.strides, sizes, before_nms=limit, count=self.proposals)

    def read_boxes(self, features: Features, boxes: Array) -> tuple[Array, Array]:
        """What is said of (B, R, 4) boxes: (B, R, classes + 1) logits and (B, R, classes, 4) deltas."""
        found = self.boxes(_cut_out(features, boxes, BOX_SIDE))
        logits, deltas = (part.reshape(*boxes.shape[:2], *part.shape[1:]) for part in found)
        return logits, deltas

    def read_masks(self, features: Features, boxes: Array) -> Array:
        """What is said of the pixels of (B, R, 4) boxes: (B, R, 28, 28, classes) logits."""
        found = self.masks(_cut_out(features, boxes, MASK_SIDE))
        return found.reshape(*boxes.shape[:2], *found.shape[1:])


def _cut_out(features: Features, boxes: Array, size: int) -> Array:
    """(B, R, 4) -> (B * R, size, size, C), each box read from the level of its size."""
    maps, strides = [jnp.asarray(level) for level in features.maps[:-1]], features.strides[:-1]
    images, count = boxes.shape[:2]
    flat = jax.lax.stop_gradient(jnp.asarray(boxes)).reshape(-1, 4)
    levels = pyramid_levels(flat, len(maps), FINEST * strides[0])
    batch = jnp.broadcast_to(jnp.arange(images)[:, None], (images, count)).reshape(-1)
    return roi_align(maps, flat, batch, strides=strides, size=size, levels=levels)
