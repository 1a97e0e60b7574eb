"""CrossFormer's attention in the short- and long-distance groups of every stage, mapped back to the picture."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from crosscale.contracts import Array
from crosscale.layers.groups import Grouping, group_map, merge, partition
from crosscale.models.crossformer.config import MERGE_STRIDE, CrossFormerConfig
from crosscale.models.description import AttentionMaps, Direction, Map, Placement

_KINDS = ("short", "long")


def attention_maps(c: CrossFormerConfig, size: tuple[int, int]) -> AttentionMaps:
    """The maps of such a model for pictures of `size`."""

    def grids(captured: Mapping[str, Any], position: Array | None, direction: Direction) -> dict[str, Array]:
        return grid_maps(c, captured, size, position, direction)

    return AttentionMaps(maps(c, size), placements(c, size), grids)


def maps(c: CrossFormerConfig, size: tuple[int, int]) -> tuple[Map, ...]:
    """Which maps `grid_maps` gives for pictures of `size`, stage by stage."""
    found = []
    for s, (rows, columns) in enumerate(_grids(c, size)):
        for parity in range(min(len(_KINDS), c.depths[s])):
            kind = f"stage {s}: {rows} x {columns} of {c.strides[s]} px"
            scale = f"{_KINDS[parity]}-distance groups"
            found.append(Map(f"stage_{s}/{_KINDS[parity]}", kind, scale, rows * columns))
    return tuple(found)


def placements(c: CrossFormerConfig, size: tuple[int, int]) -> dict[str, Placement]:
    """Where each map lies in a picture of `size`."""
    grids = _grids(c, size)
    found = {}
    for m in maps(c, size):
        s = _stage_of(m.name)
        found[m.name] = Placement(grids[s], (0, 0), (c.strides[s], c.strides[s]))
    return found


def grid_maps(
    c: CrossFormerConfig,
    captured: Mapping[str, Any],
    size: tuple[int, int],
    position: Array | None,
    direction: Direction,
) -> dict[str, Array]:
    """The maps on the stages' cells, (B, rows, columns) each, of the last block of each kind, averaged over heads.

    Args:
      captured: the collection of attention weights, nested as the model.
      size: of the pictures, in pixels.
      position: (2,) y and x as fractions of the picture; None stands for all positions alike.
      direction: "received": at every cell, the weight with which it attends to the position; "given": at every
        cell, the weight that the position gives to it. Without a position only "given" is defined: the attention
        that a cell receives from an average position; it sums to 1.
    """
    found = {}
    grids = _grids(c, size)
    for m in maps(c, size):
        s = _stage_of(m.name)
        block = _last_block(c, s, m.name.endswith("long"))
        grouping = _grouping(c, s, block, grids[s])
        layer = captured["backbone"][f"stage_{s}"][f"block_{block}"]["attention"]["weights"][0]
        heads_mean = layer.astype(jnp.float32).mean(1)  # (B groups, N, N)
        heads_mean = heads_mean.reshape(-1, heads_mean.shape[0] // _batch(layer, grouping), *heads_mean.shape[1:])
        chosen = partition(_chosen(position, grids[s], size, c.strides[s])[None, :, :, None], grouping)[..., 0]
        equation = "bgqk,gk->bgq" if direction == "received" else "bgqk,gq->bgk"
        values = jnp.einsum(equation, heads_mean, chosen)
        found[m.name] = merge(values.reshape(-1, grouping.tokens, 1), grouping)[..., 0]
    return found


def _chosen(position: Array | None, grid: tuple[int, int], size: tuple[int, int], pixels: int) -> Array:
    """(rows, columns): 1 on the chosen cell, or the same on all, and 1 in sum."""
    rows, columns = grid
    if position is None:
        return jnp.full(grid, 1 / (rows * columns), jnp.float32)
    # A remainder at the right and bottom edge that no cell covers belongs to the nearest one.
    row = jnp.minimum((position[0] * size[0] / pixels).astype(int), rows - 1)
    column = jnp.minimum((position[1] * size[1] / pixels).astype(int), columns - 1)
    return jnp.zeros(grid, jnp.float32).at[row, column].set(1.0)


def _stage_of(name: str) -> int:
    return int(name.partition("/")[0].removeprefix("stage_"))


def _last_block(c: CrossFormerConfig, stage: int, long: bool) -> int:
    """Long-distance attention is in the odd blocks."""
    depth: int = c.depths[stage]
    return depth - 1 - (depth - 1 - long) % 2


def _grouping(c: CrossFormerConfig, stage: int, block: int, grid: tuple[int, int]) -> Grouping:
    interval = c.interval[stage] if block % 2 else 1
    return group_map(grid, c.group_sizes[stage][block], interval, c.grouping, long=block % 2 == 1)


def _batch(layer: Array, grouping: Grouping) -> int:
    rows, columns = grouping.regions
    return int(layer.shape[0]) // (rows * columns * grouping.interval**2)


def _grids(c: CrossFormerConfig, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of cells per stage; the merging rounds an odd side up."""
    rows, columns = (side // c.stride for side in size)
    found = []
    for _ in c.depths:
        found.append((rows, columns))
        rows, columns = -(-rows // MERGE_STRIDE), -(-columns // MERGE_STRIDE)
    return found
