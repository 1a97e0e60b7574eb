"""A pyramid made from one map, between a plain vision transformer and a dense head.

Li et al.: Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), ECCV 2022, section 3.
"""

from typing import Any

from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.conv import Conv
from crosscale.layers.dense import Dense
from crosscale.layers.kernels import gelu
from crosscale.layers.norm import LayerNorm


class Doubled(nn.Module):
    """A transposed convolution of 2 x 2 at stride 2: each cell becomes four, by one product.

    Attributes:
      features: output channels.
      dtype: compute type.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, 2 h, 2 w, features)."""
        batch, height, width, _ = x.shape
        cells = Dense(4 * self.features, dtype=self.dtype, name="cells")(x)
        cells = cells.reshape(batch, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        doubled: Array = cells.reshape(batch, 2 * height, 2 * width, self.features)
        return doubled


class SimplePyramid(nn.Module):
    """One map at four, two, one and half times its size, each brought to `channels`.

    Larger maps come from transposed convolutions of 2 x 2 at stride 2, each of which halves the channels, with norm and
    GELU between the two of the largest; the smaller one from a maximum over 2 x 2. Then a 1 x 1 and a 3 x 3
    convolution without bias, each with a layer norm, as in ViTDet. No map learns from another there.

    Attributes:
      channels: of every map that comes out.
      level: which of the maps given is taken.
      patch: pixels a side of its cells, a multiple of 4: the strides where the pictures' own say nothing.
      dtype: compute type; the norms compute in float32.
    """

    channels: int
    level: int
    patch: int
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Features:
        """Features -> the same with four maps (B, h, w, channels) and strides that double, fine to coarse."""
        x, stride = features.maps[self.level], features.strides[self.level]
        width = x.shape[-1]
        fine = Doubled(width // 2, self.dtype, name="up_0")(x)
        fine = gelu(LayerNorm(dtype=self.dtype, name="up_norm")(fine))
        maps = (
            Doubled(width // 4, self.dtype, name="up_1")(fine),
            Doubled(width // 2, self.dtype, name="up_2")(x),
            x,
            nn.max_pool(x, (2, 2), (2, 2)),
        )
        quarter = (stride if stride % 4 == 0 else self.patch) // 4
        outputs = tuple(self._output(found, level) for level, found in enumerate(maps))
        return features._replace(maps=outputs, strides=tuple(quarter * 2**level for level in range(4)))

    def _output(self, x: Array, level: int) -> Array:
        for i, side in enumerate((1, 3)):
            name = f"output_{level}_{i}"
            x = Conv(self.channels, side, padding=side // 2, dtype=self.dtype, use_bias=False, name=f"{name}_conv")(x)
            x = LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x)
        return x
