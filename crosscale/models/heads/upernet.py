"""The heads of UPerNet (Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.conv_norm import ConvNorm, NormKind
from crosscale.layers.pooling import adaptive_average_pool
from crosscale.layers.resize import resize_bilinear
from crosscale.models.heads.classifier import CellClassifier


class UPerNetHead(nn.Module):
    """A pyramid of pooled maps on the coarsest map, a feature pyramid over all, their union classified cell by cell.

    The coarsest map is pooled to a few bins (Zhao et al., CVPR 2017), each enlarged again and put beside it. From the
    coarsest to the finest, each map is added to the finer one, bilinearly enlarged. All go to the finest one's size,
    side by side. Every convolution has norm and ReLU.

    Attributes:
      num_classes: logits of each cell.
      channels: of every convolution.
      pool_scales: bins per side of the pooled maps.
      norm: "batch" or "group".
      drop_rate: of whole channels before the last layer.
      dtype: compute type; norms' statistics and logits are float32.
    """

    num_classes: int
    channels: int = 512
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    norm: NormKind = "batch"
    drop_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Array:
        """Features -> (B, h, w, num_classes) float32, h and w those of the finest map, the first."""
        *finer, coarsest = features.maps
        sums = [self._conv(x, 1, f"lateral_{level}", train) for level, x in enumerate(finer)]
        sums.append(self._pooled(coarsest, train))
        for level in range(len(finer), 0, -1):
            below = sums[level - 1]
            sums[level - 1] = below + resize_bilinear(sums[level], below.shape[1:3])
        for level in range(len(finer)):
            sums[level] = self._conv(sums[level], 3, f"output_{level}", train)
        size = sums[0].shape[1:3]
        joined = jnp.concatenate([resize_bilinear(x, size) for x in sums], axis=-1)
        fused = self._conv(joined, 3, "fuse", train)
        return CellClassifier(self.num_classes, self.drop_rate, self.dtype, name="classifier")(fused, train)

    def _pooled(self, x: Array, train: bool) -> Array:
        size = x.shape[1:3]
        parts = [x]
        for i, bins in enumerate(self.pool_scales):
            pooled = self._conv(adaptive_average_pool(x, bins), 1, f"pool_{i}", train)
            parts.append(resize_bilinear(pooled, size))
        return self._conv(jnp.concatenate(parts, axis=-1), 3, "bottleneck", train)

    def _conv(self, x: Array, side: int, name: str, train: bool) -> Array:
        y: Array = ConvNorm(self.channels, side, self.norm, self.dtype, name=name)(x, train)
        return y


class AuxiliaryHead(nn.Module):
    """One 3 x 3 convolution with norm and ReLU on one map, and each cell's logits: a second loss for training.

    Attributes:
      num_classes: logits of each cell.
      channels: of the convolution.
      level: which of the maps; counted from the end where negative.
      norm: "batch" or "group".
      drop_rate: of whole channels before the last layer.
      dtype: compute type; the norm's statistics and the logits are float32.
    """

    num_classes: int
    channels: int = 256
    level: int = -2
    norm: NormKind = "batch"
    drop_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Array:
        """Features -> (B, h, w, num_classes) float32 of that map's size."""
        x = ConvNorm(self.channels, 3, self.norm, self.dtype, name="block_0")(features.maps[self.level], train)
        return CellClassifier(self.num_classes, self.drop_rate, self.dtype, name="classifier")(x, train)
