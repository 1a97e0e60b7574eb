"""A feature pyramid network between a backbone's maps and a head (Lin et al., CVPR 2017)."""

from typing import Any

from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.conv import Conv
from crosscale.layers.initializers import XAVIER_UNIFORM
from crosscale.layers.resize import resize_nearest


class PyramidNeck(nn.Module):
    """Maps of one width each that know the coarser ones.

    A 1 x 1 convolution of each map; from the coarsest to the finest, each is added to the finer one, enlarged by
    repetition; a 3 x 3 convolution of each sum. Both with bias, without norm or ReLU. Xavier-uniform kernels.

    Attributes:
      channels: of every map that comes out.
      first_level: the finest of the backbone's maps that is read.
      extra_levels: maps beyond the coarsest, each a 3 x 3 convolution of stride 2 without ReLU: the first of the
        backbone's last map, the others of the one before (RetinaNet's P6 and P7).
      dtype: compute type.
      thinned_levels: maps beyond those, each every second cell of the one before (Mask R-CNN's P6).
    """

    channels: int
    first_level: int = 0
    extra_levels: int = 0
    dtype: Any = None
    thinned_levels: int = 0

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Features:
        """Features -> the same with maps (B, h, w, channels) of the levels read, and the extra ones; fine to coarse."""
        read, strides = features.maps[self.first_level :], list(features.strides[self.first_level :])
        sums: list[Array] = [self._conv(1, f"lateral_{level}")(found) for level, found in enumerate(read)]
        for level in range(len(sums) - 1, 0, -1):
            finer = sums[level - 1]
            sums[level - 1] = finer + resize_nearest(sums[level], finer.shape[1:3])
        maps = [self._conv(3, f"output_{level}")(total) for level, total in enumerate(sums)]
        for extra in range(self.extra_levels):
            x = maps[-1] if extra else read[-1]
            maps.append(self._conv(3, f"output_{len(maps)}", stride=2)(x))
            strides.append(2 * strides[-1])
        for _ in range(self.thinned_levels):
            maps.append(maps[-1][:, ::2, ::2])
            strides.append(2 * strides[-1])
        return features._replace(maps=tuple(maps), strides=tuple(strides))

    def _conv(self, side: int, name: str, stride: int = 1) -> Conv:
        return Conv(self.channels, side, stride, side // 2, dtype=self.dtype, kernel_init=XAVIER_UNIFORM, name=name)
