"""CrossViT's branches and stages, and the model class itself.

Chen, Fan, Panda: CrossViT, ICCV 2021, section 3. Differs from the released code in that the number of branches
is free, pictures need not be square, and the patches are counted per side (floor(H / p) * floor(W / p)).
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.attention import recorder
from crosscale.layers.block import Block
from crosscale.layers.drop_path import drop_path_schedule
from crosscale.layers.kernels import carried_tokens
from crosscale.layers.patches import PatchTokens
from crosscale.layers.resize import center_crop, resize_bicubic
from crosscale.models.crossvit.attention_maps import attention_maps
from crosscale.models.crossvit.config import CrossViTConfig, Size
from crosscale.models.crossvit.description import by_stage, layer_of, position_tables
from crosscale.models.crossvit.fusion import FUSIONS, FusionSettings, Tokens
from crosscale.models.crossvit.timm import timm_model
from crosscale.models.crossvit.weights import REMARKS, weight_rules
from crosscale.models.description import AttentionMaps, Layer, TimmModel
from crosscale.models.model import ImageModel, check_images, rematerialised
from crosscale.weights.positions import PositionTable
from crosscale.weights.rules import Rules


class Branch(nn.Module):
    """The transformer blocks of one branch in one stage; `drop_path_rates` has one entry per block."""

    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    drop_rate: float
    attn_drop_rate: float
    drop_path_rates: tuple[float, ...]
    norm_layer: Callable[..., nn.Module]
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        block = rematerialised(Block) if self.remat else Block
        tokens = x.shape[1]
        x, keys = self._filled_up(x, train)
        for i, rate in enumerate(self.drop_path_rates):
            x = block(
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                qkv_bias=self.qkv_bias,
                qk_scale=self.qk_scale,
                drop_rate=self.drop_rate,
                attn_drop_rate=self.attn_drop_rate,
                drop_path_rate=rate,
                norm_layer=self.norm_layer,
                dtype=self.dtype,
                keys=keys,
                name=f"block_{i}",
            )(x, train)
        return x[:, :tokens] if keys is not None else x

    def _filled_up(self, x: Array, train: bool) -> tuple[Array, int | None]:
        """The tokens as the blocks' attention wants them, and how many there are, None where nothing was added."""
        tokens = x.shape[1]
        whole_weights = recorder(self) is not None or (train and self.attn_drop_rate > 0)
        wanted = tokens if whole_weights else carried_tokens(tokens)
        if wanted == tokens:
            return x, None
        return jnp.pad(x, ((0, 0), (0, wanted - tokens), (0, 0))), tokens


class Stage(nn.Module):
    """One multi-scale encoder: every branch's blocks, then the fusion (Figure 2)."""

    config: CrossViTConfig
    index: int
    drop_path_rates: tuple[float, ...]

    @nn.compact
    def __call__(self, tokens: Tokens, train: bool = False) -> Tokens:
        c = self.config
        *depths, fusion_depth = c.depth[self.index]
        shared = {
            name: getattr(c, name)
            for name in ("qkv_bias", "qk_scale", "drop_rate", "attn_drop_rate", "norm_layer", "dtype")
        }
        tokens = tuple(
            Branch(
                num_heads=c.num_heads[b],
                mlp_ratio=c.mlp_ratio[b],
                drop_path_rates=self.drop_path_rates[:depth],
                remat=c.remat,
                name=f"branch_{b}",
                **shared,
            )(tokens[b], train)
            for b, depth in enumerate(depths)
        )
        settings = FusionSettings(
            depth=fusion_depth,
            num_heads=c.num_heads,
            grids=c.grids,
            drop_path_rate=self.drop_path_rates[-1],
            **shared,
        )
        fuse = FUSIONS[c.fusion]
        return fuse(tokens, settings, train) if c.cls_token else _fuse_means(fuse, tokens, settings, train)


class CrossViTBackbone(nn.Module):
    """Images -> Features: per branch the normalised CLS token and the normalised patch tokens as a map."""

    config: CrossViTConfig

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Features:
        c = self.config
        check_images(images, c.in_channels)
        tokens: Tokens = tuple(
            PatchTokens(dim, patch, c.multi_conv, c.drop_rate, c.cls_token, c.dtype, name=f"embed_{b}")(
                _rescale(_seen(images, c.channels_of(b)), size, c.rescale), train
            )
            for b, (size, patch, dim) in enumerate(zip(c.img_size, c.patch_size, c.embed_dim, strict=True))
        )
        for s, rates in enumerate(_stage_rates(c)):
            tokens = Stage(c, s, rates, name=f"stage_{s}")(tokens, train)
        tokens = tuple(c.norm_layer(dtype=c.dtype, name=f"norm_{b}")(x) for b, x in enumerate(tokens))
        patches = [x[:, 1:] for x in tokens] if c.cls_token else tokens
        return Features(
            pooled=tuple(x[:, 0] if c.cls_token else x.mean(1) for x in tokens),
            maps=tuple(x.reshape(x.shape[0], *grid, -1) for x, grid in zip(patches, c.grids, strict=True)),
            strides=tuple(
                _stride(images.shape[1:3], size, patch, c.rescale)
                for size, patch in zip(c.img_size, c.patch_size, strict=True)
            ),
        )


class CrossViT(CrossViTConfig, ImageModel):
    """CrossViT classifier with any number of branches (one per entry of `patch_size`).

    Attributes:
      img_size: per branch, the side in pixels, or a [height, width] pair, that the branch sees; one number sets
        all. Images of another size are rescaled inside the model, per branch, by `rescale`.
      patch_size: per branch, the side of its patches in pixels.
      in_channels: channels of the images, 1 or more; for several pictures, of all together.
      num_classes: width of the logits; 0 returns the pooled CLS tokens, concatenated.
      embed_dim: per branch, the token width.
      depth: per stage, the number of blocks of each branch and then the fusion depth.
      num_heads: per branch; must divide its width.
      mlp_ratio: per branch, above 0; a further entry (the published configurations have one) is not used.
      qkv_bias: bias of the query, key and value projections.
      qk_scale: above 0, replaces head_dim ** -0.5 when given.
      drop_rate: dropout of positions, projections and perceptrons, 0 <= rate < 1.
      attn_drop_rate: dropout of attention weights.
      drop_path_rate: stochastic depth, rising linearly from 0 in the first block to this in the last.
      norm_layer: builds a normalisation; called with `dtype` and `name`.
      multi_conv: the convolutional stem of the dagger models (patch sizes 12 and 16).
      fusion: "cross_attention" (section 3.3), "class_token", "pairwise", "all_attention" (the paper's alternatives,
        eqs. 2-4) or "none".
      rescale: "bicubic" (a = -0.75, no antialias, as the released code) or "center_crop" where the branch is no
        larger than the image.
      cls_token: False runs without CLS tokens (the ablation of section 4.4): the mean of a branch's patches takes
        the token's place in the fusion, which moves that mean, and in the head.
      remat: computes the insides of the branches' blocks again in the backward pass, to save memory.
      dtype: compute type, such as jnp.bfloat16 or "bfloat16"; parameters stay float32.
      pictures: 1, or one for each branch to see alone: their channels stand one after another in the images.

    Raises:
      RequestError: at construction, for a configuration that cannot be built.
    """

    __repr__ = nn.Module.__repr__  # the config has one too

    def __post_init__(self) -> None:
        CrossViTConfig.__post_init__(self)
        ImageModel.__post_init__(self)

    @property
    def config(self) -> CrossViTConfig:
        return CrossViTConfig(**{f.name: getattr(self, f.name) for f in fields(CrossViTConfig)})

    @property
    def input_size(self) -> tuple[int, int]:
        return max(self.img_size)

    def layer_of(self, name: str) -> Layer:
        """See `description.layer_of`."""
        return layer_of(name)

    def timm_layer_of(self, name: str) -> Layer:
        return by_stage(self.config, super().timm_layer_of(name))

    def attention_maps(self, size: tuple[int, int] | None = None) -> AttentionMaps:
        return attention_maps(self.config, size or self.input_size)

    def weight_rules(self) -> dict[str, Rules]:
        return weight_rules(self.config)

    def weight_remarks(self) -> dict[str, str]:
        return REMARKS

    def timm_model(self, architecture: str | None) -> TimmModel | None:
        return timm_model(self.config, architecture)

    def position_tables(self) -> dict[str, PositionTable]:
        return position_tables(self.config)

    def make_backbone(self) -> nn.Module:
        return CrossViTBackbone(self.config)


def _cuts(given: Sequence[int], size: Size, mode: str) -> bool:
    """Whether a branch of `size` sees the centre of the images rather than the whole of them."""
    return mode == "center_crop" and size[0] <= given[0] and size[1] <= given[1]


def _seen(images: Array, channels: tuple[int, int] | None) -> Array:
    """The part of the images' channels that a branch sees."""
    return images if channels is None else images[..., channels[0] : channels[1]]


def _rescale(images: Array, size: Size, mode: str) -> Array:
    return center_crop(images, size) if _cuts(images.shape[1:3], size, mode) else resize_bicubic(images, size)


def _stride(given: Sequence[int], size: Size, patch: int, mode: str) -> int:
    """Pixels of the images given per patch where that is a whole number, the same for both sides; else the patch."""
    scaled = {divmod(patch * side, own) for side, own in zip(given, size, strict=True)}
    (pixels, rest), *others = scaled
    return patch if _cuts(given, size, mode) or rest or others else pixels


def _fuse_means(fuse: Any, tokens: Tokens, settings: FusionSettings, train: bool) -> Tokens:
    """The fusion with each branch's mean patch as its CLS token; the change of the mean goes to all patches."""
    means = [x.mean(1, keepdims=True) for x in tokens]
    fused = fuse(tuple(jnp.concatenate([m, x], axis=1) for m, x in zip(means, tokens, strict=True)), settings, train)
    return tuple(f[:, 1:] + f[:, :1] - m for f, m in zip(fused, means, strict=True))


def _stage_rates(c: CrossViTConfig) -> list[tuple[float, ...]]:
    """Each stage's slice of the linear stochastic-depth schedule; its last entry is the fusion's."""
    lengths = [max(stage[:-1]) + stage[-1] for stage in c.depth]
    rates = drop_path_schedule(c.drop_path_rate, sum(lengths))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [rates[start : start + length] for start, length in zip(starts, lengths, strict=True)]
