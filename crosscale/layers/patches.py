"""From pixels to tokens: the linear patch embedding, the convolutional stem, CLS token and positions."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.errors import RequestError
from crosscale.layers.conv import Conv
from crosscale.layers.initializers import trunc_normal

# (kernel, stride, padding) of the three convolutions, by patch size (CrossViT supplementary; ReLU between them)
STEMS = {
    12: ((7, 4, 3), (3, 3, 0), (3, 1, 1)),
    16: ((7, 4, 3), (3, 2, 1), (3, 2, 1)),
}


def patch_grid(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of whole patches; a remainder at the right and bottom edge is not seen."""
    return size[0] // patch_size, size[1] // patch_size


def stem_grid(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns that the convolutional stem makes of a picture.

    Raises RequestError when there is no stem for that patch size.
    """
    if patch_size not in STEMS:
        known = " or ".join(map(str, STEMS))
        raise RequestError(f"multi_conv: the convolutional stem exists for patch_size {known}, not {patch_size}")

    def after(side: int) -> int:
        for kernel, stride, padding in STEMS[patch_size]:
            side = (side + 2 * padding - kernel) // stride + 1
        return side

    return after(size[0]), after(size[1])


class ConvStem(nn.Module):
    """Three convolutions with ReLU between them in place of the linear patch embedding (the dagger models)."""

    embed_dim: int
    patch_size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """(B, H, W, C) -> (B, H / patch, W / patch, embed_dim)."""
        widths = (self.embed_dim // 4, self.embed_dim // 2, self.embed_dim)
        x = images
        for i, (width, (kernel, stride, padding)) in enumerate(zip(widths, STEMS[self.patch_size], strict=True)):
            x = Conv(width, kernel, stride, padding, dtype=self.dtype, name=f"conv_{i}")(nn.relu(x) if i else x)
        return x


class PatchTokens(nn.Module):
    """Patches of one size as tokens, behind a CLS token, with learnt positions added.

    Attributes:
      embed_dim: token width C.
      patch_size: side of the square patches in pixels.
      multi_conv: use the convolutional stem.
      drop_rate: dropout after the positions.
      cls_token: whether there is a CLS token.
      dtype: compute type.
    """

    embed_dim: int
    patch_size: int
    multi_conv: bool = False
    drop_rate: float = 0.0
    cls_token: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """(B, H, W, channels) -> (B, 1 + N, C), N = (H // patch) * (W // patch); (B, N, C) without CLS token."""
        if self.multi_conv:
            maps = ConvStem(self.embed_dim, self.patch_size, self.dtype, name="stem")(images)
        else:
            maps = Conv(self.embed_dim, self.patch_size, self.patch_size, dtype=self.dtype, name="patches")(images)
        tokens = maps.reshape(maps.shape[0], -1, self.embed_dim)
        if self.cls_token:
            cls = self.param("cls", trunc_normal(), (1, 1, self.embed_dim), jnp.float32).astype(tokens.dtype)
            cls = jnp.broadcast_to(cls, (tokens.shape[0], 1, self.embed_dim))
            tokens = jnp.concatenate([cls, tokens], axis=1)
        position = self.param("position", trunc_normal(), (1, *tokens.shape[1:]), jnp.float32)
        return nn.Dropout(self.drop_rate)(tokens + position.astype(tokens.dtype), deterministic=not train)
