"""Convolution, normalisation and ReLU, of which the dense heads are made."""

import math
from typing import Any, Literal

from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.batch_norm import BatchNorm
from crosscale.layers.conv import Conv
from crosscale.layers.initializers import HE_NORMAL

NormKind = Literal["batch", "group"]
GROUPS = 32
EPSILON = 1e-5


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation, ReLU; the map keeps its size.

    The kernel starts as the reference's: normal of variance 2 / (kernel_size^2 features), He et al., 2015.

    Attributes:
      features: output channels.
      kernel_size: odd side of the kernel.
      norm: "batch", or "group": over groups of channels of each picture (Wu and He, 2018), 32 or the most that divide
        both 32 and the channels.
      dtype: compute type; the statistics are in float32.
    """

    features: int
    kernel_size: int = 3
    norm: NormKind = "batch"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(B, H, W, C) -> (B, H, W, features)."""
        k = self.kernel_size
        conv = Conv(
            self.features, k, padding=k // 2, dtype=self.dtype, use_bias=False, kernel_init=HE_NORMAL, name="conv"
        )
        y = conv(x)
        if self.norm == "group":
            groups = math.gcd(GROUPS, self.features)
            norm = nn.GroupNorm(groups, epsilon=EPSILON, dtype=self.dtype, use_fast_variance=False, name="norm")
            return nn.relu(norm(y))
        return nn.relu(BatchNorm(EPSILON, dtype=self.dtype, name="norm")(y, train))
