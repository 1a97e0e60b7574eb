"""A feature pyramid network between a backbone's maps and a head (Lin et al., CVPR 2017)."""

from typing import Any

from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.conv import Conv
from crosscale.layers.conv_norm import XAVIER_UNIFORM
from crosscale.layers.resize import resize_nearest


class PyramidNeck(nn.Module):
    """Maps of one width each that know the coarser ones.

    A 1 x 1 convolution of each map; from the coarsest to the finest, each is added to the finer one, enlarged by
    repetition; a 3 x 3 convolution of each sum. Both with bias, without norm or ReLU. Xavier-uniform kernels.

    Attributes:
      channels: of every map that comes out.
      dtype: compute type.
    """

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Features:
        """Features -> the same with maps (B, h, w, channels), sizes and strides unchanged; fine to coarse."""
        sums: list[Array] = [
            self._conv(1, f"lateral_{level}")(features_map) for level, features_map in enumerate(features.maps)
        ]
        for level in range(len(sums) - 1, 0, -1):
            finer = sums[level - 1]
            sums[level - 1] = finer + resize_nearest(sums[level], finer.shape[1:3])
        maps = tuple(self._conv(3, f"output_{level}")(total) for level, total in enumerate(sums))
        return features._replace(maps=maps)

    def _conv(self, side: int, name: str) -> Conv:
        return Conv(self.channels, side, padding=side // 2, dtype=self.dtype, kernel_init=XAVIER_UNIFORM, name=name)
