"""CrossViT's configuration: normalised and refused, with the reason, before anything is built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from flax import linen as nn

from crosscale.errors import RequestError
from crosscale.layers.attention import check_heads
from crosscale.layers.norm import LayerNorm
from crosscale.layers.patches import patch_grid, stem_grid
from crosscale.models.checks import (
    check_choice,
    check_common,
    check_entries,
    check_norm_layer,
    check_numbers,
    check_perceptron,
    check_switches,
    is_whole,
    listed,
    normalised,
    plain_fields,
    side_pair,
)

Size = tuple[int, int]
Fusion = Literal["cross_attention", "class_token", "pairwise", "all_attention", "none"]
Rescale = Literal["bicubic", "center_crop"]


@dataclass(unsafe_hash=True)  # not frozen, because the model inherits the fields and Linen's classes are not
class CrossViTConfig:
    """The constructor's fields, written here alone (`CrossViT` says what each means), as tuples per branch.

    Raises RequestError for anything that cannot be built, naming the field and what would work.
    """

    img_size: Any = (224, 224)
    patch_size: Any = (12, 16)
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: Any = (192, 384)
    depth: Any = ((1, 3, 1),) * 3
    num_heads: Any = (6, 12)
    mlp_ratio: Any = (2.0, 2.0, 4.0)
    qkv_bias: bool = False
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_layer: Callable[..., nn.Module] = LayerNorm
    multi_conv: bool = False
    fusion: Fusion = "cross_attention"
    rescale: Rescale = "bicubic"
    cls_token: bool = True
    remat: bool = False
    dtype: Any = None
    pictures: int = 1

    def __post_init__(self) -> None:
        plain_fields(self)
        self.patch_size = listed("patch_size", self.patch_size)
        branches = len(self.patch_size)
        for name in ("patch_size", "embed_dim", "num_heads"):
            setattr(self, name, normalised(name, getattr(self, name), branches, int))
        self.img_size = _sizes(self.img_size, branches)
        self.mlp_ratio = _ratios(self.mlp_ratio, branches)
        self.depth = _depths(self.depth, branches)
        _check(self)

    @property
    def grids(self) -> tuple[Size, ...]:
        """Rows and columns of patches, per branch."""
        return tuple(patch_grid(s, p) for s, p in zip(self.img_size, self.patch_size, strict=True))

    def channels_of(self, branch: int) -> tuple[int, int] | None:
        """First and past the last of the images' channels that a branch sees; None where it sees all."""
        own = self.in_channels // self.pictures
        return None if self.pictures == 1 else (branch * own, (branch + 1) * own)

    @property
    def fused(self) -> bool:
        return self.fusion != "none"


def _sizes(value: Any, branches: int) -> tuple[Size, ...]:
    entries = listed("img_size", value, branches)
    if len(entries) != branches:
        raise RequestError(
            f"img_size={list(entries)} has {len(entries)} entries for {branches} branches: give one side length, or "
            "one entry per patch_size (a side, or a [height, width] pair)"
        )
    return tuple(side_pair(entry) for entry in entries)


def _ratios(value: Any, branches: int) -> tuple[float, ...]:
    values = listed("mlp_ratio", value, branches)
    if len(values) not in (branches, branches + 1):
        raise RequestError(
            f"mlp_ratio={list(values)} needs one entry per branch ({branches}); one more, the reference's unused "
            "entry for the fusion, is accepted"
        )
    # The published configurations carry an entry for the fusion, whose blocks have no perceptron.
    return normalised("mlp_ratio", values[:branches], branches, float)


def _depths(value: Any, branches: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, Sequence) or not all(isinstance(stage, Sequence) for stage in value):
        example = [[1] * (branches + 1)]
        raise RequestError(
            f"depth={value!r} is no list of stages: give one [blocks per branch..., fusion depth] list per stage, "
            f"such as {example}"
        )
    stages = tuple(tuple(stage) for stage in value)
    if not stages:
        raise RequestError("depth is empty: give one [blocks per branch..., fusion depth] list per stage")
    for stage in stages:
        if len(stage) != branches + 1 or not all(map(is_whole, stage)):
            raise RequestError(
                f"depth: stage {list(stage)} needs {branches + 1} whole numbers: one per branch and the fusion depth"
            )
        if min(stage[:-1]) < 1 or stage[-1] < 0:
            raise RequestError(
                f"depth: stage {list(stage)}: every branch needs at least one block, and the fusion depth is 0 or more"
            )
    return stages


def _check(c: CrossViTConfig) -> None:
    for name, choices in (("fusion", get_args(Fusion)), ("rescale", get_args(Rescale))):
        check_choice(c, name, choices)
    check_common(c)
    check_switches(c, ("multi_conv", "cls_token"))
    check_norm_layer(c.norm_layer)
    check_entries(c, ("patch_size", "embed_dim"))
    check_numbers(c, ("pictures",), ())
    if c.pictures != 1 and (c.pictures != len(c.patch_size) or c.in_channels % c.pictures):
        raise RequestError(
            f"pictures={c.pictures}, in_channels={c.in_channels}: one picture for all branches, or one for each of the "
            f"{len(c.patch_size)}, which share the channels evenly"
        )
    if len(c.patch_size) == 1 and c.fused:
        raise RequestError("fusion needs two branches or more: give patch_size another entry, or fusion='none'")
    if c.fusion != "cross_attention" and max(stage[-1] for stage in c.depth) > 1:
        raise RequestError(f"depth: fusion='{c.fusion}' happens once a stage: its entry, the last one, must be 0 or 1")
    for b, (size, patch, dim, heads) in enumerate(zip(c.img_size, c.patch_size, c.embed_dim, c.num_heads, strict=True)):
        check_heads(dim, heads, f"branch {b}")
        check_perceptron(dim, c.mlp_ratio[b], f"branch {b}: ")
        if min(size) < patch:
            raise RequestError(f"branch {b}: img_size {size[0]}x{size[1]} is smaller than one patch of {patch} pixels")
        if c.multi_conv and stem_grid(size, patch) != patch_grid(size, patch):
            near = tuple(max(side // patch, 1) * patch for side in size)
            raise RequestError(
                f"branch {b}: with multi_conv, img_size {size[0]}x{size[1]} must divide by the patch size {patch}; "
                f"{near[0]}x{near[1]} would work"
            )
        if c.multi_conv and dim % 4:
            raise RequestError(f"branch {b}: with multi_conv, embed_dim {dim} must divide by 4")
