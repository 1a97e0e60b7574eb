"""Progressive group sizes (CrossFormer++, Wang et al., TPAMI 2023): the side G of each block's groups.

The rules are those of the released code. All but "constant" and "7_14" grow with the block's number i out of
n: the share of the map's side that a group covers rises linearly, f_i = f_0 + i (1 - f_0) / n, where f_0 = 4
/ rows of the first stage's map, and G = max(4, ceil(f_i * rows of this stage's map)).
"""

from typing import Literal

import numpy as np

GroupType = Literal["constant", "linear", "linear_div", "alter", "7_14"]
_SMALLEST = 4
_PROGRESSIVE_STAGE = 2  # the third stage, with most of the blocks, is the one treated apart
_HALVED_BLOCKS = 4


def group_sizes(
    group_type: GroupType, group_size: tuple[int, ...], depths: tuple[int, ...], rows: int
) -> tuple[tuple[int, ...], ...]:
    """Side of the groups, per stage and block.

    Args:
      group_type:
        "constant": `group_size` of the stage.
        "linear": the rule above.
        "linear_div": as linear, but a side above half the map becomes the whole map; in the third stage it
          becomes half the map as long as it is no more than three quarters of it.
        "alter": as linear, but a side above half the map becomes the whole map; in the third stage blocks of
          even number (counted over all stages) get half the map instead.
        "7_14": `group_size` of the stage, halved in the first four blocks of the third stage.
      group_size: one per stage; used by "constant" and "7_14" only.
      depths: blocks per stage.
      rows: rows of the first stage's map; above 4 for the growing rules.
    """
    if group_type in ("constant", "7_14"):
        return tuple(
            tuple(_fixed(group_type, group_size[stage], stage, i) for i in range(depth))
            for stage, depth in enumerate(depths)
        )
    first = _SMALLEST / rows
    # np.arange, whose last digit differs from first + i * step: ceil() below makes a whole cell of it.
    shares = np.arange(first, 1.0, (1 - first) / sum(depths))
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return tuple(
        tuple(_growing(group_type, rows // 2**stage, float(shares[start + i]), stage, start + i) for i in range(depth))
        for stage, (start, depth) in enumerate(zip(starts, depths, strict=True))
    )


def _fixed(group_type: GroupType, side: int, stage: int, block: int) -> int:
    halved = group_type == "7_14" and stage == _PROGRESSIVE_STAGE and block < _HALVED_BLOCKS
    return side // 2 if halved else side


def _growing(group_type: GroupType, rows: int, share: float, stage: int, block: int) -> int:
    side = rows * share
    if group_type != "linear" and side > rows // 2:
        halves = side <= rows * 3 / 4 if group_type == "linear_div" else block % 2 == 0
        side = rows // 2 if halves and stage == _PROGRESSIVE_STAGE else rows
    return max(_SMALLEST, int(np.ceil(side)))
