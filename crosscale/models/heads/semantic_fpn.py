"""The head of Semantic FPN (Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019)."""

import math
from typing import Any

from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.conv_norm import ConvNorm, NormKind
from crosscale.layers.resize import resize_bilinear
from crosscale.models.heads.classifier import CellClassifier


class SemanticFPNHead(nn.Module):
    """Every map to the finest one's size, step by step; their sum classified cell by cell.

    A map whose stride is 2^n times the finest one's takes n times a 3 x 3 convolution with norm and ReLU and a
    bilinear enlargement by two; the finest takes one convolution alone. A pyramid whose sides do not halve evenly is
    resized once more to the finest one's size.

    Attributes:
      num_classes: logits of each cell.
      channels: of the convolutions.
      norm: "batch" or "group".
      drop_rate: of whole channels before the last layer.
      dtype: compute type; norms' statistics and logits are float32.
    """

    num_classes: int
    channels: int = 128
    norm: NormKind = "batch"
    drop_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Array:
        """Features with strides -> (B, h, w, num_classes) float32, h and w those of the finest map, the first."""
        size = features.maps[0].shape[1:3]
        scales = []
        for level, (x, stride) in enumerate(zip(features.maps, features.strides, strict=True)):
            doublings = int(math.log2(stride // features.strides[0]))
            scale = _Scale(self.channels, doublings, self.norm, self.dtype, name=f"scale_{level}")
            scales.append(resize_bilinear(scale(x, train), size))
        classifier = CellClassifier(self.num_classes, self.drop_rate, self.dtype, name="classifier")
        return classifier(sum(scales[1:], scales[0]), train)


class _Scale(nn.Module):
    """One map, enlarged by two `doublings` times."""

    channels: int
    doublings: int
    norm: NormKind
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """(B, h, w, C) -> (B, h * 2 ** doublings, w * 2 ** doublings, channels)."""
        for i in range(max(1, self.doublings)):
            x = ConvNorm(self.channels, 3, self.norm, self.dtype, name=f"block_{i}")(x, train)
            if self.doublings:
                x = resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))
        return x
