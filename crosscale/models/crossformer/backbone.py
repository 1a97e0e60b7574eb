"""CrossFormer's four-stage pyramid, and the model class itself; CrossFormer++ is the same class with other
values.

Wang et al.: CrossFormer, ICLR 2022, and CrossFormer++, TPAMI 2023. The released classification code is built
for one square image size; its detection and segmentation code takes any size whose maps halve evenly. Here
the size is free:

- The embedding does not pad: the first map has floor(H / 4) x floor(W / 4) cells, as in the released code.
  The larger kernels still see the pixels of a remainder.
- Groups pad their map with masked zeros to the right and bottom, as in the released code (`layers/groups.py`
  says what happens where the map is no larger than a group).
- A map with an odd side is padded by one row or column of zeros before it is merged, so every cell is kept.
  The released code refuses such maps; floor(H / 4) and floor(W / 4) that divide by 8 never meet one.
"""

from dataclasses import fields

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array, Features
from crosscale.layers.cross_scale import CrossScaleEmbedding
from crosscale.layers.drop_path import drop_path_schedule
from crosscale.layers.norm import LayerNorm
from crosscale.models.crossformer.attention_maps import attention_maps
from crosscale.models.crossformer.block import NORM_EPSILON, CrossFormerBlock
from crosscale.models.crossformer.config import MERGE_STRIDE, CrossFormerConfig, check_size
from crosscale.models.crossformer.description import layer_of, open_sizes
from crosscale.models.crossformer.weights import OFFICIAL
from crosscale.models.description import AttentionMaps, Layer, OpenSizes
from crosscale.models.model import ImageModel, check_images, rematerialised
from crosscale.weights.rules import Rules


class Stage(nn.Module):
    """The blocks of one scale: short-distance attention in even blocks, long-distance in odd ones."""

    config: CrossFormerConfig
    index: int
    drop_path_rates: tuple[float, ...]

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        c, s = self.config, self.index
        depth = c.depths[s]
        block = rematerialised(CrossFormerBlock) if c.remat else CrossFormerBlock
        for i, rate in enumerate(self.drop_path_rates):
            x = block(
                num_heads=c.num_heads[s],
                group_size=c.group_sizes[s][i],
                interval=c.interval[s] if i % 2 else 1,
                grouping=c.grouping,
                long=i % 2 == 1,
                mlp_ratio=c.mlp_ratio,
                qkv_bias=c.qkv_bias,
                qk_scale=c.qk_scale,
                drop_rate=c.drop_rate,
                attn_drop_rate=c.attn_drop_rate,
                drop_path_rate=rate,
                # after every third block, but not after the stage's last, which the merging's norm follows
                cooling=c.use_acl and i % 3 == 2 and i < depth - 1,
                dtype=c.dtype,
                name=f"block_{i}",
            )(x, train)
        return x


class CrossFormerBackbone(nn.Module):
    """Images -> Features: the mean of the normalised last map, and the four stages' maps.

    The maps are the stages' raw outputs at strides 4, 8, 16 and 32, without a norm of their own, which is
    what the released detection and segmentation backbones hand to their necks. Only the pooled vector is
    normalised.

    Attributes:
      config: the model's.
      last_norm: whether the pooled vector is normalised. The dense backbones have no parameters for that.
    """

    config: CrossFormerConfig
    last_norm: bool = True

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Features:
        c = self.config
        check_images(images, c.in_channels)
        check_size(images.shape[1:3], c.patch_size, "images of")
        x = CrossScaleEmbedding(c.embed_dim, c.patch_size, c.stride, c.dtype, name="embed")(images)
        if c.patch_norm:
            x = _norm(c, "embed_norm")(x)
        x = nn.Dropout(c.drop_rate)(x, deterministic=not train)
        rates = drop_path_schedule(c.drop_path_rate, sum(c.depths))
        maps = []
        for s, depth in enumerate(c.depths):
            if s:
                kernels, name = c.merge_size[s - 1], f"merge_{s - 1}"
                x = _pad_even(_norm(c, f"merge_norm_{s - 1}")(x))
                x = CrossScaleEmbedding(c.widths[s], kernels, MERGE_STRIDE, c.dtype, name=name)(x)
            start = sum(c.depths[:s])
            x = Stage(c, s, rates[start : start + depth], name=f"stage_{s}")(x, train)
            maps.append(x)
        pooled = (_norm(c, "norm")(x) if self.last_norm else x).mean(axis=(1, 2))
        return Features(pooled=(pooled,), maps=tuple(maps), strides=c.strides)


class CrossFormer(CrossFormerConfig, ImageModel):
    """CrossFormer and CrossFormer++ classifier.

    The weights do not depend on the image size: the same variables run at any height and width of at least
    the largest patch, chosen at each call.

    Attributes:
      img_size: side in pixels, or a [height, width] pair, that the model is meant for. It sets the input of
        commands and, unless `group_type` is "constant" or "7_14", the group sizes; nothing else.
      patch_size: kernels of the cross-scale embedding in pixels; the first one is the stride of all.
      in_channels: channels of the images.
      num_classes: logits; 0 makes the model return the pooled vector.
      embed_dim: width of the first stage; it doubles with every stage.
      depths: blocks per stage; short- and long-distance attention alternate.
      num_heads: attention heads per stage; each must divide its stage's width.
      group_size: side of the attention groups in cells, per stage or one for all.
      interval: distance of neighbouring cells in a long-distance group, per stage or one for all.
      mlp_ratio: hidden width of the perceptrons over the stage's width.
      qkv_bias: bias of the query, key and value projection.
      qk_scale: above 0, replaces head_dim ** -0.5 when given.
      drop_rate: dropout of the embedding, projections and perceptrons, 0 <= rate < 1.
      attn_drop_rate: dropout of attention weights.
      drop_path_rate: stochastic depth, rising linearly from 0 in the first block to this in the last.
      merge_size: per pair of stages, kernels of the merging at stride 2.
      group_type: progressive group sizes, "constant", "linear", "linear_div", "alter" or "7_14"
        (see `group_sizes.group_sizes`).
      use_acl: amplitude cooling layers after every third block of a stage but its last block (CrossFormer++).
      patch_norm: normalise the embedding.
      remat: computes the blocks' insides again in the backward pass, to save memory.
      dtype: compute type, such as jnp.bfloat16 or "bfloat16"; parameters stay float32.
      grouping: "regions" cuts long-distance groups of `group_size` out of regions, as the released classification
        code does; "whole" spreads them over the whole map, as its first detection and segmentation code does, with
        which the published detectors and segmenters were trained (see `layers.groups.group_map`).

    Raises:
      RequestError: at construction, for a configuration that cannot be built.
    """

    __repr__ = nn.Module.__repr__  # the config has one too

    def __post_init__(self) -> None:
        CrossFormerConfig.__post_init__(self)
        ImageModel.__post_init__(self)

    @property
    def config(self) -> CrossFormerConfig:
        return CrossFormerConfig(**{f.name: getattr(self, f.name) for f in fields(CrossFormerConfig)})

    @property
    def input_size(self) -> tuple[int, int]:
        height, width = self.img_size
        return height, width

    def layer_of(self, name: str) -> Layer:
        return layer_of(name)

    def attention_maps(self, size: tuple[int, int] | None = None) -> AttentionMaps:
        return attention_maps(self.config, size or self.input_size)

    def open_sizes(self) -> OpenSizes:
        return open_sizes(self.config)

    def weight_rules(self) -> dict[str, Rules]:
        return {"official": OFFICIAL}

    def make_backbone(self) -> nn.Module:
        return CrossFormerBackbone(self.config)


def _norm(c: CrossFormerConfig, name: str) -> LayerNorm:
    return LayerNorm(epsilon=NORM_EPSILON, dtype=c.dtype, name=name)


def _pad_even(x: Array) -> Array:
    rows, columns = x.shape[1] % MERGE_STRIDE, x.shape[2] % MERGE_STRIDE
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0))) if rows or columns else x
