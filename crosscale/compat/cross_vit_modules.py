"""The parts of vit-pytorch's CrossViT: tokens of one patch size, an encoder, the exchange of CLS tokens."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.compat.torch_modules import FeedForward, Linear, layer_norm
from crosscale.contracts import Array, Features
from crosscale.errors import RequestError
from crosscale.layers.attention import attend
from crosscale.models.model import check_images


@dataclass(frozen=True)
class BranchSizes:
    """One branch: token width, patch side in pixels, and its encoder's blocks, heads and widths."""

    dim: int
    patch_size: int
    depth: int
    heads: int
    mlp_dim: int
    dim_head: int


class ImageTokens(nn.Module):
    """Square patches -> norm -> linear -> norm, behind a CLS token, with learnt positions added.

    Attributes:
      dim: token width C.
      patch_size: side of the patches in pixels.
      max_patches: rows of the position table, less the CLS token's.
      drop_rate: dropout after the positions; drawn from the "emb_dropout" stream if there is one,
        otherwise from "dropout".
      dtype: compute type.
    """

    dim: int
    patch_size: int
    max_patches: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """(B, H, W, channels) -> (B, 1 + N, C), N = (H / patch) * (W / patch)."""
        batch, height, width, channels = images.shape
        p = self.patch_size
        if height % p or width % p:
            raise RequestError(
                f"vit_pytorch.CrossViT: {height} x {width} pixels do not divide into patches of {p}; "
                f"both sides must be multiples of both patch sizes"
            )
        rows, cols = height // p, width // p
        if rows * cols > self.max_patches:
            raise RequestError(
                f"vit_pytorch.CrossViT: {height} x {width} pixels give {rows * cols} patches of {p}, the "
                f"position table has {self.max_patches}; build the model with a larger image_size"
            )
        patches = images.reshape(batch, rows, p, cols, p, channels).transpose(0, 1, 3, 2, 4, 5)
        x = patches.reshape(batch, rows * cols, p * p * channels)  # pixel row, pixel column, channel
        x = layer_norm(self.dtype, "patch_norm")(x)
        x = Linear(self.dim, dtype=self.dtype, name="project")(x)
        x = layer_norm(self.dtype, "norm")(x)
        normal = nn.initializers.normal(1.0)
        cls = self.param("cls", normal, (1, 1, self.dim)).astype(x.dtype)
        position = self.param("position", normal, (1, 1 + self.max_patches, self.dim)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(cls, (batch, 1, self.dim)), x], axis=1) + position[:, : 1 + x.shape[1]]
        stream = "emb_dropout" if self.has_rng("emb_dropout") else "dropout"
        return nn.Dropout(self.drop_rate, rng_collection=stream)(x, deterministic=not train)


class Attention(nn.Module):
    """Pre-norm multi-head attention of inner width heads * dim_head, whatever the token width; no residual.

    Attributes:
      heads: number of heads.
      dim_head: width of one head.
      drop_rate: dropout on the attention weights and on the output.
      dtype: compute type.
    """

    heads: int
    dim_head: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, train: bool = False) -> Array:
        """(B, N, C) -> (B, N, C).

        Keys and values are the normalised tokens themselves, followed by `context` (B, M, C) if given. The
        context is not normalised here: the package's norm sees the queries only.
        """
        inner = self.heads * self.dim_head
        x = layer_norm(self.dtype, "norm")(x)
        source = x if context is None else jnp.concatenate([x, context], axis=1)
        q = Linear(inner, use_bias=False, dtype=self.dtype, name="q")(x)
        k, v = jnp.split(Linear(2 * inner, use_bias=False, dtype=self.dtype, name="kv")(source), 2, axis=-1)
        heads = [t.reshape(t.shape[0], -1, self.heads, self.dim_head) for t in (q, k, v)]  # (B, N, H, D) each
        dropout = nn.Dropout(self.drop_rate, deterministic=not train)
        attended = attend(*heads, scale=self.dim_head**-0.5, dropout=dropout)
        y = Linear(x.shape[-1], dtype=self.dtype, name="out")(attended.reshape(*x.shape[:2], inner))
        return nn.Dropout(self.drop_rate)(y, deterministic=not train)


class Encoder(nn.Module):
    """`depth` pre-norm blocks on (B, N, C), and a norm after the last."""

    depth: int
    heads: int
    dim_head: int
    mlp_dim: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        rate, dtype = self.drop_rate, self.dtype
        for i in range(self.depth):
            attention = Attention(self.heads, self.dim_head, rate, dtype, name=f"attention_{i}")
            x = attention(x, train=train) + x
            x = FeedForward(self.mlp_dim, rate, rate, dtype, name=f"mlp_{i}")(x, train) + x
        return layer_norm(self.dtype, "norm")(x)


class CrossAttention(nn.Module):
    """One branch's CLS token attends to itself and to the other branch's patch tokens, in their width."""

    heads: int
    dim_head: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, cls: Array, patches: Array, train: bool = False) -> Array:
        """(B, 1, C) and (B, M, D) -> (B, 1, C). The linear maps C -> D -> C exist only where C != D."""
        own, other = cls.shape[-1], patches.shape[-1]
        x = cls if own == other else Linear(other, dtype=self.dtype, name="enter")(cls)
        attention = Attention(self.heads, self.dim_head, self.drop_rate, self.dtype, name="attention")
        x = attention(x, patches, train)
        return x if own == other else Linear(own, dtype=self.dtype, name="leave")(x)


class Fusion(nn.Module):
    """`depth` rounds in which the small and then the large CLS token attend across.

    The large branch goes second but reads only the small patch tokens, which no round changes.
    """

    depth: int
    heads: int
    dim_head: int
    drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, small: Array, large: Array, train: bool = False) -> tuple[Array, Array]:
        """(B, 1 + N, C) and (B, 1 + M, D) -> the same shapes; only the CLS tokens change."""
        fields = (self.heads, self.dim_head, self.drop_rate, self.dtype)
        small_cls, small_patches = small[:, :1], small[:, 1:]
        large_cls, large_patches = large[:, :1], large[:, 1:]
        for i in range(self.depth):
            small_cls = CrossAttention(*fields, name=f"small_{i}")(small_cls, large_patches, train) + small_cls
            large_cls = CrossAttention(*fields, name=f"large_{i}")(large_cls, small_patches, train) + large_cls
        return (
            jnp.concatenate([small_cls, small_patches], axis=1),
            jnp.concatenate([large_cls, large_patches], axis=1),
        )


class CrossViTBackbone(nn.Module):
    """Two branches of tokens, `depth` times encoded apart and fused.

    Attributes:
      small: the branch of the smaller patches.
      large: the branch of the larger patches.
      channels: the images' channels.
      image_size: side of the pictures in pixels; sets the position tables' lengths.
      depth: rounds of encoders and fusion.
      cross_depth: exchanges within one fusion.
      cross_heads: heads of the exchange.
      cross_dim_head: width of such a head.
      drop_rate: dropout in attention and feed-forward.
      emb_drop_rate: dropout on the embedded tokens.
      dtype: compute type.
    """

    small: BranchSizes
    large: BranchSizes
    channels: int
    image_size: int
    depth: int
    cross_depth: int
    cross_heads: int
    cross_dim_head: int
    drop_rate: float = 0.0
    emb_drop_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Features:
        check_images(images, self.channels)
        small = self._tokens(self.small, "small_tokens")(images, train)
        large = self._tokens(self.large, "large_tokens")(images, train)
        for s in range(self.depth):
            small = self._encoder(self.small, f"small_encoder_{s}")(small, train)
            large = self._encoder(self.large, f"large_encoder_{s}")(large, train)
            fusion = Fusion(
                self.cross_depth,
                self.cross_heads,
                self.cross_dim_head,
                self.drop_rate,
                self.dtype,
                name=f"fusion_{s}",
            )
            small, large = fusion(small, large, train)
        pooled = (
            layer_norm(self.dtype, "small_norm")(small[:, 0]),
            layer_norm(self.dtype, "large_norm")(large[:, 0]),
        )
        return Features(
            pooled,
            (_map(small, images, self.small.patch_size), _map(large, images, self.large.patch_size)),
            (self.small.patch_size, self.large.patch_size),
        )

    @nn.nowrap
    def _tokens(self, sizes: BranchSizes, name: str) -> ImageTokens:
        patches = (self.image_size // sizes.patch_size) ** 2
        return ImageTokens(sizes.dim, sizes.patch_size, patches, self.emb_drop_rate, self.dtype, name=name)

    @nn.nowrap
    def _encoder(self, sizes: BranchSizes, name: str) -> Encoder:
        return Encoder(sizes.depth, sizes.heads, sizes.dim_head, sizes.mlp_dim, self.drop_rate, self.dtype, name=name)


def _map(tokens: Array, images: Array, patch_size: int) -> Array:
    """The patch tokens (B, 1 + N, C) as a map (B, H / patch, W / patch, C)."""
    rows, cols = images.shape[1] // patch_size, images.shape[2] // patch_size
    return tokens[:, 1:].reshape(tokens.shape[0], rows, cols, tokens.shape[-1])
