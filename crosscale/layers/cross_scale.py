"""Cross-scale embedding: convolutions of several kernel sizes at one stride, side by side in the channels.

CrossFormer (Wang et al., ICLR 2022), section 3.1: larger kernels get fewer channels.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.errors import RequestError
from crosscale.layers.conv import Conv


def split_widths(features: int, count: int) -> tuple[int, ...]:
    """Channels of each of `count` kernels: features / 2, / 4, / 8, ..., the last one gets the remainder."""
    widths = [features // 2 ** (i + 1) for i in range(count - 1)]
    return (*widths, features - sum(widths))


def check_kernels(kernel_sizes: Sequence[int], stride: int, features: int, where: str) -> None:
    """Raises RequestError unless all kernels give the same map at `stride` and each gets a channel."""
    for k in kernel_sizes:
        if k < stride or (k - stride) % 2:
            raise RequestError(
                f"{where}={list(kernel_sizes)}: {k} must exceed the stride {stride} by 0 or an even number, "
                f"such as {stride + 2 * max(round((k - stride) / 2), 0)}"
            )
    if not kernel_sizes or min(split_widths(features, len(kernel_sizes))) < 1:
        raise RequestError(
            f"{where}={list(kernel_sizes)}: {len(kernel_sizes)} kernels cannot share {features} channels; "
            "give at least one kernel, and 2 ** (kernels - 1) channels or more"
        )


class CrossScaleEmbedding(nn.Module):
    """Convolutions of several kernel sizes with a common stride, concatenated by channel.

    A kernel of side k is padded by (k - stride) / 2 on each side, so that all see the same centres.

    Attributes:
      features: output channels in all, split by `split_widths`.
      kernel_sizes: sides of the square kernels, in pixels or cells.
      stride: step in both directions.
      dtype: compute type.
    """

    features: int
    kernel_sizes: tuple[int, ...]
    stride: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, C) -> (B, H // stride, W // stride, features)."""
        widths = split_widths(self.features, len(self.kernel_sizes))
        scales = [
            Conv(width, k, self.stride, (k - self.stride) // 2, dtype=self.dtype, name=f"scale_{i}")(x)
            for i, (width, k) in enumerate(zip(widths, self.kernel_sizes, strict=True))
        ]
        return jnp.concatenate(scales, axis=-1)
