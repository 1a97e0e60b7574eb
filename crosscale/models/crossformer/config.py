"""CrossFormer's configuration: normalised and checked once, before anything is built."""

from dataclasses import dataclass
from typing import Any, get_args

from crosscale.errors import RequestError
from crosscale.layers.attention import check_heads
from crosscale.layers.cross_scale import check_kernels
from crosscale.layers.groups import GroupingKind
from crosscale.models.checks import (
    check_choice,
    check_common,
    check_entries,
    check_numbers,
    check_perceptron,
    check_switches,
    listed,
    normalised,
    plain_fields,
    side_pair,
)
from crosscale.models.crossformer.group_sizes import GroupType, group_sizes

MERGE_STRIDE = 2
_BIAS_SHARE = 16  # width over the position network's width


@dataclass(unsafe_hash=True)  # not frozen, because the model inherits the fields and Linen's classes are not
class CrossFormerConfig:
    """The constructor's fields, written here alone (`CrossFormer` says what each means), as tuples per stage.

    Raises RequestError for anything that cannot be built, naming the field and what would work.
    """

    img_size: Any = 224
    patch_size: Any = (4, 8, 16, 32)
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: Any = (2, 2, 6, 2)
    num_heads: Any = (3, 6, 12, 24)
    group_size: Any = (7, 7, 7, 7)
    interval: Any = (8, 4, 2, 1)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    merge_size: Any = ((2, 4),) * 3
    group_type: GroupType = "constant"
    use_acl: bool = False
    patch_norm: bool = True
    remat: bool = False
    dtype: Any = None
    grouping: GroupingKind = "regions"

    def __post_init__(self) -> None:
        plain_fields(self)
        self.depths = _numbers("depths", self.depths)
        stages = len(self.depths)
        self.patch_size = _numbers("patch_size", self.patch_size)
        for name in ("num_heads", "group_size", "interval"):
            setattr(self, name, normalised(name, getattr(self, name), stages, int))
        self.mlp_ratio = normalised("mlp_ratio", self.mlp_ratio, 1, float)[0]
        self.merge_size = _merges(self.merge_size, stages - 1)
        self.img_size = side_pair(self.img_size)
        _check(self)

    @property
    def stride(self) -> int:
        """Pixels per cell of the first stage's map."""
        return int(self.patch_size[0])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each stage's map."""
        return tuple(self.stride * MERGE_STRIDE**stage for stage in range(len(self.depths)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def group_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Side of the groups per stage and block, from `img_size`, whatever the size of the images given."""
        rows = self.img_size[0] // self.stride
        return group_sizes(self.group_type, self.group_size, self.depths, rows)


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    values = listed(name, value)
    if not values:
        raise RequestError(f"{name} is empty: give at least one whole number")
    return normalised(name, values, len(values), int)


def _merges(value: Any, count: int) -> tuple[tuple[int, ...], ...]:
    entries = tuple(listed("merge_size", entry) for entry in listed("merge_size", value))
    if len(entries) != count:
        raise RequestError(
            f"merge_size={[list(e) for e in entries]} has {len(entries)} entries; {count + 1} stages "
            f"(depths) are joined by {count}"
        )
    return tuple(_numbers("merge_size", entry) for entry in entries)


def check_size(size: tuple[int, ...], patch_size: tuple[int, ...], what: str) -> None:
    """Raises RequestError for images smaller than the largest patch."""
    if any(side < max(patch_size) for side in size):  # one by one: sizes may be symbolic
        raise RequestError(
            f"{what} {size[0]}x{size[1]} is smaller than the largest patch (patch_size={list(patch_size)}); "
            f"give {max(patch_size)}x{max(patch_size)} or more"
        )


def _check(c: CrossFormerConfig) -> None:
    for name, kind in (("group_type", GroupType), ("grouping", GroupingKind)):
        check_choice(c, name, get_args(kind))
    check_common(c)
    check_switches(c, ("use_acl", "patch_norm"))
    check_numbers(c, ("embed_dim",), ())
    check_entries(c, ("depths", "patch_size", "group_size", "interval"))
    if c.embed_dim < _BIAS_SHARE:
        raise RequestError(
            f"embed_dim={c.embed_dim} leaves the position bias no width (embed_dim / {_BIAS_SHARE}); give "
            f"{_BIAS_SHARE} or more"
        )
    check_perceptron(c.embed_dim, c.mlp_ratio)
    check_kernels(c.patch_size, c.stride, c.embed_dim, "patch_size")
    for kernels, width in zip(c.merge_size, c.widths[1:], strict=True):
        check_kernels(kernels, MERGE_STRIDE, width, "merge_size")
    for stage, (width, heads) in enumerate(zip(c.widths, c.num_heads, strict=True)):
        check_heads(width, heads, f"stage {stage}")
    check_size(c.img_size, c.patch_size, "img_size")
    if c.group_type not in ("constant", "7_14") and c.img_size[0] // c.stride <= 4:
        raise RequestError(
            f"group_type={c.group_type!r} needs a first map of more than 4 rows: img_size {5 * c.stride} or more"
        )
    if min(side for sides in c.group_sizes for side in sides) < 1:
        raise RequestError(
            f"group_size={list(c.group_size)}: group_type '7_14' halves the third, which must be 2 or more"
        )
