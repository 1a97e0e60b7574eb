"""`CrossViT` and `CrossFormer` with vit-pytorch's keyword names, defaults, numbers and weights.

For code and state dicts made for vit-pytorch 1.26.11, or for its Flax ports. Neither class computes what its
paper describes, and no weights published by the papers' authors fit them; `crosscale.CrossViT` and
`crosscale.CrossFormer` are the papers' models. Each class lists the differences.

Differences from the package itself: images are NHWC; `train=True` turns dropout on (it is off otherwise),
with the "dropout" stream and, where given, "emb_dropout" for the embedded tokens; a size that does not fit is
refused with the sizes that do. Initialisation follows torch's defaults, as in the package.
"""

import itertools
import math
from dataclasses import fields
from typing import Any, get_args

from flax import linen as nn

from crosscale.compat.cross_vit_modules import BranchSizes, CrossViTBackbone
from crosscale.compat.crossformer_modules import (
    DIM_HEAD,
    CrossFormerBackbone,
    PositionIndex,
    StageSizes,
    working_sides,
)
from crosscale.compat.torch_modules import SummedLinears, check_rates, check_whole
from crosscale.compat.vit_pytorch_rules import cross_vit_rules, crossformer_rules
from crosscale.contracts import Array, Features
from crosscale.errors import RequestError
from crosscale.models.checks import check_dtype, plain_fields
from crosscale.models.description import BOTTOM, TOP, Layer
from crosscale.models.model import ImageModel
from crosscale.weights.rules import Rules

__all__ = ["CrossFormer", "CrossViT"]

_STAGES = 4


class CrossViT(ImageModel, kw_only=True):
    """vit-pytorch's CrossViT: (B, H, W, channels) float images -> (B, num_classes) logits.

    Unlike the paper (Chen, Fan, Panda, ICCV 2021) and its released code:
      - both branches see the picture at one size, which must be a multiple of both patch sizes;
      - patches go through norm, linear, norm instead of a convolution;
      - every encoder ends in a norm of its own, and queries, keys and values have no bias;
      - heads are `dim_head` wide, whatever the token width;
      - in the fusion the CLS token alone is normalised, not the patch tokens it attends to; the projections
        are linear maps without norm and GELU, left out where the widths agree; the residual is added in the
        branch's own width, after projecting back; and there are `cross_attn_depth` rounds with own weights;
      - the two branches' logits are added, not averaged;
      - positions and CLS tokens start from a normal distribution of deviation 1, not 0.02.

    Pictures with fewer patches than `image_size` has are accepted, as in the package: they take the first
    rows of the position table, so that those of another width get positions they were not trained with.

    Attributes:
      image_size: side of the square pictures in pixels.
      num_classes: logits.
      sm_dim: token width of the small-patch branch; `lg_dim` of the large-patch branch.
      sm_patch_size: side of its patches in pixels.
      sm_enc_depth: transformer blocks per encoder.
      sm_enc_heads: attention heads.
      sm_enc_mlp_dim: hidden width of the feed-forward.
      sm_enc_dim_head: width of one head.
      cross_attn_depth: exchanges of CLS tokens in one fusion.
      cross_attn_heads: heads of the exchange, `cross_attn_dim_head` wide.
      depth: how often both encoders and the fusion follow one another.
      dropout: rate in attention and feed-forward.
      emb_dropout: rate on the embedded tokens.
      channels: input channels.
      dtype: compute type; parameters stay float32.

    Raises:
      RequestError: at construction, when a value cannot work; when called, if the images do not fit.
    """

    image_size: int
    num_classes: int
    sm_dim: int
    lg_dim: int
    sm_patch_size: int = 12
    sm_enc_depth: int = 1
    sm_enc_heads: int = 8
    sm_enc_mlp_dim: int = 2048
    sm_enc_dim_head: int = 64
    lg_patch_size: int = 16
    lg_enc_depth: int = 4
    lg_enc_heads: int = 8
    lg_enc_mlp_dim: int = 2048
    lg_enc_dim_head: int = 64
    cross_attn_depth: int = 2
    cross_attn_heads: int = 8
    cross_attn_dim_head: int = 64
    depth: int = 3
    dropout: float = 0.1
    emb_dropout: float = 0.1
    channels: int = 3
    dtype: Any = None

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        check_dtype(self.dtype)
        where = "vit_pytorch.CrossViT"
        may_be_zero = ("sm_enc_depth", "lg_enc_depth", "cross_attn_depth", "depth")
        rates = ("dropout", "emb_dropout")
        numbers = [f.name for f in fields(self) if f.type is int and f.name not in may_be_zero]
        check_whole(where, 1, **{name: getattr(self, name) for name in numbers})
        check_whole(where, 0, **{name: getattr(self, name) for name in may_be_zero})
        check_rates(where, **{name: getattr(self, name) for name in rates})
        both = math.lcm(self.sm_patch_size, self.lg_patch_size)
        if self.image_size % both:
            near = sorted({max(self.image_size // both, 1) * both, (self.image_size // both + 1) * both})
            patches = f"sm_patch_size={self.sm_patch_size} and lg_patch_size={self.lg_patch_size}"
            raise RequestError(
                f"{where}: image_size={self.image_size} is not a multiple of {patches}; "
                f"{' or '.join(map(str, near))} would work"
            )

    def make_backbone(self) -> nn.Module:
        return CrossViTBackbone(
            small=self._branch("sm"),
            large=self._branch("lg"),
            channels=self.channels,
            image_size=self.image_size,
            depth=self.depth,
            cross_depth=self.cross_attn_depth,
            cross_heads=self.cross_attn_heads,
            cross_dim_head=self.cross_attn_dim_head,
            drop_rate=self.dropout,
            emb_drop_rate=self.emb_dropout,
            dtype=self.dtype,
        )

    @nn.nowrap
    def _branch(self, prefix: str) -> BranchSizes:
        return BranchSizes(
            dim=getattr(self, f"{prefix}_dim"),
            patch_size=getattr(self, f"{prefix}_patch_size"),
            depth=getattr(self, f"{prefix}_enc_depth"),
            heads=getattr(self, f"{prefix}_enc_heads"),
            mlp_dim=getattr(self, f"{prefix}_enc_mlp_dim"),
            dim_head=getattr(self, f"{prefix}_enc_dim_head"),
        )

    def make_head(self) -> nn.Module:
        return SummedLinears(self.num_classes, self.dtype)

    @property
    def in_channels(self) -> int:
        return self.channels

    @property
    def input_size(self) -> tuple[int, int]:
        return self.image_size, self.image_size

    def layer_of(self, name: str) -> Layer:
        """A round's blocks of one number are a layer, and so are its last norms with its fusion."""
        part, _, rest = name.removeprefix("backbone/").partition("/")
        if name.startswith("head/") or part.endswith("_norm"):
            return TOP
        if part.endswith("_tokens"):
            return BOTTOM
        kind, _, number = rest.split("/")[0].rpartition("_")
        return float(part.rpartition("_")[2]), float(number) if kind in ("attention", "mlp") else math.inf

    def weight_rules(self) -> dict[str, Rules]:
        return {"vit_pytorch": cross_vit_rules()}

    def features(self, images: Array, train: bool = False) -> Features:
        """Pooled: each branch's CLS token behind its classifier's norm; maps: each branch's patch tokens."""
        return super().features(images, train)


class CrossFormer(ImageModel, kw_only=True):
    """vit-pytorch's CrossFormer: (B, H, W, channels) float images -> (B, num_classes) logits.

    Unlike the paper (Wang et al., ICLR 2022) and its released code:
      - `global_window_size` is the side of the long-distance groups, not their spacing: with (8, 4, 2, 1) at
        224 pixels, groups of 64, 16, 4 and 1 tokens spaced 7 apart, where the paper has 49 tokens spaced 8,
        4, 2 and 1; the last stage's long-distance attention sees one token and mixes nothing;
      - `depth` counts pairs of a short- and a long-distance block: the same numbers give twice the blocks;
      - the position bias is one number that all heads share, from a network of width dim / 4;
      - its table is read at the wrong offsets: see `position_index`;
      - no norm after the patch embedding, before the merging embeddings or before the classifier; queries,
        keys and values have no bias; no stochastic depth;
      - nothing is padded: every stage's map must divide by both its windows. The defaults need sides that are
        multiples of 224.

    Attributes:
      dim: width per stage; at least 32, the width of one head. Where 32 does not divide it, the heads are
        narrower than the map in sum.
      depth: pairs of blocks per stage.
      global_window_size: side of the long-distance groups per stage.
      local_window_size: side of the short-distance groups per stage.
      cross_embed_kernel_sizes: kernels of each stage's embedding.
      cross_embed_strides: stride of each stage's embedding.
      num_classes: logits.
      attn_dropout: rate on the attention weights.
      ff_dropout: rate inside the feed-forward.
      channels: input channels.
      position_index: "vit_pytorch" repeats the package's reading of the position bias, so that its weights
        give its numbers: the bias network is evaluated on a (2w + 1)^2 grid of offsets -w..w, which is then
        indexed as if it had 2w - 1 columns and began at 1 - w. "corrected" asks the network for the true
        offset of each pair of tokens, as the paper does; names and shapes of the weights stay, logits do not.
      dtype: compute type; parameters stay float32.

    The first six take one value for all stages, or a tuple of four.

    Raises:
      RequestError: at construction, when a value cannot work; when called, if the images do not fit.
    """

    dim: int | tuple[int, ...] = (64, 128, 256, 512)
    depth: int | tuple[int, ...] = (2, 2, 8, 2)
    global_window_size: int | tuple[int, ...] = (8, 4, 2, 1)
    local_window_size: int | tuple[int, ...] = 7
    cross_embed_kernel_sizes: tuple[tuple[int, ...], ...] = ((4, 8, 16, 32), (2, 4), (2, 4), (2, 4))
    cross_embed_strides: int | tuple[int, ...] = (4, 2, 2, 2)
    num_classes: int = 1000
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    channels: int = 3
    position_index: PositionIndex = "vit_pytorch"
    dtype: Any = None

    def __post_init__(self) -> None:
        plain_fields(self)
        super().__post_init__()
        check_dtype(self.dtype)
        where = "vit_pytorch.CrossFormer"
        check_whole(where, 1, num_classes=self.num_classes, channels=self.channels)
        check_rates(where, attn_dropout=self.attn_dropout, ff_dropout=self.ff_dropout)
        if self.position_index not in get_args(PositionIndex):
            known = " or ".join(repr(value) for value in get_args(PositionIndex))
            raise RequestError(f"{where}: position_index={self.position_index!r}; expected {known}")
        self._stages()

    def make_backbone(self) -> nn.Module:
        return CrossFormerBackbone(
            stages=self._stages(),
            channels=self.channels,
            attn_drop_rate=self.attn_dropout,
            drop_rate=self.ff_dropout,
            position_index=self.position_index,
            dtype=self.dtype,
        )

    def make_head(self) -> nn.Module:
        return SummedLinears(self.num_classes, self.dtype)

    @property
    def in_channels(self) -> int:
        return self.channels

    @property
    def input_size(self) -> tuple[int, int]:
        """The smallest square size that fits: (224, 224) with the defaults."""
        sides = working_sides(self._stages())
        if not sides:
            raise RequestError("vit_pytorch.CrossFormer: no picture size fits these windows and strides")
        return sides[0], sides[0]

    def layer_of(self, name: str) -> Layer:
        """Every pair is a layer; a stage's embedding counts as above its pairs."""
        part, _, rest = name.removeprefix("backbone/").partition("/")
        if name.startswith("head/"):
            return TOP
        kind, _, number = rest.split("/")[0].rpartition("_")
        return float(part.removeprefix("stage_")), float(number) if kind == "pair" else math.inf

    def weight_rules(self) -> dict[str, Rules]:
        return {"vit_pytorch": crossformer_rules()}

    def features(self, images: Array, train: bool = False) -> Features:
        """Pooled: the mean over the last map (one entry); maps: the four stages'."""
        return super().features(images, train)

    @nn.nowrap
    def _stages(self) -> tuple[StageSizes, ...]:
        where = "vit_pytorch.CrossFormer"
        widths = _per_stage("dim", self.dim, DIM_HEAD)
        depths = _per_stage("depth", self.depth, 0)
        long_windows = _per_stage("global_window_size", self.global_window_size, 1)
        short_windows = _per_stage("local_window_size", self.local_window_size, 1)
        strides = _per_stage("cross_embed_strides", self.cross_embed_strides, 1)
        kernels: Any = self.cross_embed_kernel_sizes
        if not _is_list(kernels) or len(kernels) != _STAGES or not all(map(_is_list, kernels)):
            raise RequestError(
                f"{where}: cross_embed_kernel_sizes={kernels!r}; expected {_STAGES} tuples, a stage each"
            )
        kernels = tuple(map(tuple, kernels))
        for kernel in itertools.chain(*kernels):
            check_whole(where, 1, cross_embed_kernel_sizes=kernel)
        for sizes, stride in zip(kernels, strides, strict=True):
            if not sizes or min(sizes) < stride or len({(k - stride) % 2 for k in sizes}) > 1:
                raise RequestError(
                    f"{where}: kernels {sizes} at stride {stride} do not give maps of one size; "
                    f"expected kernels of at least the stride, all even or all odd"
                )
        columns = (widths, depths, kernels, strides, short_windows, long_windows)
        return tuple(StageSizes(*values) for values in zip(*columns, strict=True))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _per_stage(name: str, value: Any, least: int) -> tuple[int, ...]:
    values = tuple(value) if _is_list(value) else (value,) * _STAGES
    if len(values) != _STAGES:
        raise RequestError(f"vit_pytorch.CrossFormer: {name}={values}; expected one number or {_STAGES}")
    for entry in values:
        check_whole("vit_pytorch.CrossFormer", least, **{name: entry})
    return values
