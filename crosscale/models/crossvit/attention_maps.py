"""CrossViT's attention: from the CLS tokens, across the branches, and rolled out over all layers.

Rollout is Abnar and Zuidema's (ACL 2020): a layer with its residual passes on (A + I) / 2, averaged over the heads,
and the layers' matrices are multiplied. Only the CLS tokens' rows are wanted, so vectors are carried from the last
layer back to the first. Across the branches a fusion is one more such layer, over the tokens of all branches.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array
from crosscale.layers.resize import bicubic_matrix
from crosscale.models.crossvit.config import CrossViTConfig
from crosscale.models.description import AttentionMaps, Direction, Map, Placement

Shares = list[jax.Array]  # per branch (B, 1 + N): how much of the answer each token carries; the CLS token first


def attention_maps(c: CrossViTConfig, size: tuple[int, int]) -> AttentionMaps:
    """The maps of such a model for pictures of `size`."""

    def grids(captured: Mapping[str, Any], position: Array | None, direction: Direction) -> dict[str, Array]:
        del position, direction
        return dict(grid_maps(c, captured))

    return AttentionMaps(maps(c), placements(c, size), grids, no_position="those of its CLS tokens")


def maps(c: CrossViTConfig) -> tuple[Map, ...]:
    """Which maps `grid_maps` gives, row by row of a figure."""
    scales = [
        f"{_named(c, b)}{patch} px patches, {rows} x {columns}"
        for b, (patch, (rows, columns)) in enumerate(zip(c.patch_size, c.grids, strict=True))
    ]
    cells = [rows * columns for rows, columns in c.grids]
    branches = range(len(scales))
    seen = [c.channels_of(b) for b in branches]
    found = [Map(f"cls/{b}", "what this scale looks at", scales[b], cells[b], channels=seen[b]) for b in branches]
    pairs = _cross_pairs(c)
    found += [
        Map(f"cross/{b}_to_{other}", _looker(b, len(scales)), scales[other], cells[other], channels=seen[other])
        for b, other in sorted(pairs, key=lambda pair: pair[1])
    ]
    own = "all layers of this scale"
    found += [Map(f"rollout/{b}", own, scales[b], cells[b], folded=True, channels=seen[b]) for b in branches]
    if c.fused:
        all_scales = "all layers of all scales"
        found += [
            Map(f"rollout_across/{b}", all_scales, scales[b], cells[b], folded=True, channels=seen[b]) for b in branches
        ]
    return tuple(found)


def placements(c: CrossViTConfig, size: tuple[int, int]) -> dict[str, Placement]:
    """Where each map lies in a picture of `size`: the branches see it whole, or its centre."""
    of_branch = []
    for branch_size, patch, grid in zip(c.img_size, c.patch_size, c.grids, strict=True):
        if c.rescale == "center_crop" and branch_size[0] <= size[0] and branch_size[1] <= size[1]:
            start = round((size[0] - branch_size[0]) / 2), round((size[1] - branch_size[1]) / 2)
            of_branch.append(Placement(grid, start, (patch, patch)))
        else:
            scale_y, scale_x = size[0] / branch_size[0], size[1] / branch_size[1]
            of_branch.append(Placement(grid, (0, 0), (patch * scale_y, patch * scale_x)))
    return {m.name: of_branch[_branch_of(m.name)] for m in maps(c)}


def grid_maps(c: CrossViTConfig, captured: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The maps on the branches' patch grids, (B, rows, columns) each; a map's sum is at most 1.

    "cls/b": the last block of branch b, "cross/b_to_o": the last fusion, both averaged over the heads. What is
    missing to 1 is attention to CLS tokens. Without CLS tokens the mean over the patches stands in for them.

    Args:
      captured: the collection of attention weights, nested as the model.
    """
    stages = captured["backbone"]
    last = stages[f"stage_{len(c.depth) - 1}"]
    found: dict[str, jax.Array] = {}
    for b in range(len(c.patch_size)):
        layer = _heads(last[f"branch_{b}"][f"block_{c.depth[-1][b] - 1}"])
        found[f"cls/{b}"] = layer[:, 0, 1:] if c.cls_token else layer.mean(1)
        found[f"rollout/{b}"] = _patches(c, _rollout_within(c, stages, b))
    for b, other in _cross_pairs(c):
        found[f"cross/{b}_to_{other}"] = _across(c, last, b, other)
    if c.fused:
        for b, share in enumerate(_rollout_across(c, stages)):
            found[f"rollout_across/{b}"] = _patches(c, share)
    return {name: x.reshape(x.shape[0], *c.grids[_branch_of(name)]) for name, x in found.items()}


def _looker(branch: int, count: int) -> str:
    return "asked by the other scale" if count == 2 else f"asked by scale {branch + 1}"


def _named(c: CrossViTConfig, branch: int) -> str:
    """What a branch is called before its patches."""
    if len(c.patch_size) > 2:
        return f"scale {branch + 1}: "
    if len(set(c.patch_size)) < 2:
        return ""
    return "fine: " if c.patch_size[branch] == min(c.patch_size) else "coarse: "


def _branch_of(name: str) -> int:
    """The branch whose patches a map shows."""
    return int(name.rpartition("/")[2].rpartition("_")[2])


def _cross_pairs(c: CrossViTConfig) -> list[tuple[int, int]]:
    """(branch that looks, branch that is looked at) of the attention in the fusion."""
    count = len(c.patch_size)
    if c.fusion == "cross_attention":
        return [(b, (b + 1) % count) for b in range(count)]
    if c.fusion == "all_attention":
        return [(b, other) for b in range(count) for other in range(count) if b != other]
    return []


def _heads(module: Mapping[str, Any]) -> jax.Array:
    """A layer's weights in float32, averaged over its heads: (B, N, N), or (B, N) of one query."""
    return module["attention"]["weights"][0].astype(jnp.float32).mean(1)


def _across(c: CrossViTConfig, stage: Mapping[str, Any], b: int, other: int) -> jax.Array:
    if c.fusion == "cross_attention":
        return _heads(stage[f"fusion_{b}"]["block_0"])[:, 1:]
    starts = _starts(c)
    return _heads(stage)[:, starts[b], starts[other] + 1 : starts[other + 1]]


def _starts(c: CrossViTConfig) -> list[int]:
    """Where each branch's tokens begin among those of all branches, and where they end."""
    return [sum(1 + rows * columns for rows, columns in c.grids[:b]) for b in range(len(c.grids) + 1)]


def _patches(c: CrossViTConfig, share: jax.Array) -> jax.Array:
    return share[:, 1:] if c.cls_token else share


def _initial(c: CrossViTConfig, layer: jax.Array) -> jax.Array:
    """All on the query that the head reads: the CLS token, or the mean of the patches."""
    tokens = layer.shape[-1]
    row = np.eye(1, tokens, dtype=np.float32)[0] if c.cls_token else np.full(tokens, 1 / tokens, np.float32)
    return jnp.broadcast_to(row, (layer.shape[0], tokens))


def _through_blocks(c: CrossViTConfig, stage: Mapping[str, Any], index: int, b: int, share: jax.Array) -> jax.Array:
    """From behind the blocks of a branch in one stage to before them."""
    for i in reversed(range(c.depth[index][b])):
        layer = _heads(stage[f"branch_{b}"][f"block_{i}"])
        share = 0.5 * (share + jnp.einsum("bq,bqk->bk", share, layer))
    return share


def _rollout_within(c: CrossViTConfig, stages: Mapping[str, Any], b: int) -> jax.Array:
    """(B, tokens) of the branch alone: the fusions are taken as passing its tokens on."""
    share = _initial(c, _heads(stages["stage_0"][f"branch_{b}"]["block_0"]))
    for s in reversed(range(len(c.depth))):
        share = _through_blocks(c, stages[f"stage_{s}"], s, b, share)
    return share


def _rollout_across(c: CrossViTConfig, stages: Mapping[str, Any]) -> Shares:
    """(B, tokens) per branch, over both the branches' layers and the fusions; together they sum to 1.

    The logits are the mean of the branches' logits, so every branch starts with the same share.
    """
    count = len(c.patch_size)
    shares = [_initial(c, _heads(stages["stage_0"][f"branch_{b}"]["block_0"])) / count for b in range(count)]
    for s in reversed(range(len(c.depth))):
        stage = stages[f"stage_{s}"]
        fuse = _FUSIONS[c.fusion]
        shares = fuse(c, stage, shares) if c.cls_token else _through_means(fuse, c, stage, shares)
        shares = [_through_blocks(c, stage, s, b, share) for b, share in enumerate(shares)]
    return shares


def _through_means(fuse: Callable[..., Shares], c: CrossViTConfig, stage: Mapping[str, Any], shares: Shares) -> Shares:
    """A fusion of the branches' mean patches, which every patch takes up beside what it was."""
    with_mean = [0.5 * jnp.concatenate([x.sum(1, keepdims=True), x], axis=1) for x in shares]
    return [x[:, 1:] + x[:, :1] / (x.shape[1] - 1) for x in fuse(c, stage, with_mean)]


def _through_cross_attention(c: CrossViTConfig, stage: Mapping[str, Any], shares: Shares) -> Shares:
    """A CLS token carries half of itself and half of what it attends to; later blocks of a fusion see only it."""
    result = list(shares)
    for b, other in _cross_pairs(c):
        layer, cls = _heads(stage[f"fusion_{b}"]["block_0"]), shares[b][:, :1]
        result[b] = result[b].at[:, :1].add(0.5 * cls * (layer[:, :1] - 1))
        result[other] = result[other].at[:, 1:].add(0.5 * cls * layer[:, 1:])
    return result


def _through_class_token(c: CrossViTConfig, stage: Mapping[str, Any], shares: Shares) -> Shares:
    """Every CLS token becomes the sum of all CLS tokens."""
    mean = sum(x[:, :1] for x in shares) / len(shares)
    return [jnp.concatenate([mean, x[:, 1:]], axis=1) for x in shares]


def _through_pairwise(c: CrossViTConfig, stage: Mapping[str, Any], shares: Shares) -> Shares:
    """As the CLS tokens, and every patch becomes the sum of the patches at its place in all branches."""
    fused = _through_class_token(c, stage, shares)
    count = len(shares)
    patches = [
        sum(shares[b][:, 1:] @ _resampling(c.grids[b], c.grids[other]) for b in range(count)) / count
        for other in range(count)
    ]
    return [jnp.concatenate([x[:, :1], y], axis=1) for x, y in zip(fused, patches, strict=True)]


def _through_all_attention(c: CrossViTConfig, stage: Mapping[str, Any], shares: Shares) -> Shares:
    joint = jnp.concatenate(shares, axis=1)
    joint = 0.5 * (joint + jnp.einsum("bq,bqk->bk", joint, _heads(stage)))
    starts = _starts(c)
    return [joint[:, start:end] for start, end in pairwise(starts)]


def _resampling(to: tuple[int, int], source: tuple[int, int]) -> np.ndarray:
    """(patches of `to`, patches of `source`): the shares with which the bicubic resize reads, rows summing to 1."""
    rows, columns = (np.abs(bicubic_matrix(a, b)) for a, b in zip(source, to, strict=True))
    matrix = np.kron(rows, columns)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


_FUSIONS: dict[str, Callable[..., Shares]] = {
    "cross_attention": _through_cross_attention,
    "class_token": _through_class_token,
    "pairwise": _through_pairwise,
    "all_attention": _through_all_attention,
}
