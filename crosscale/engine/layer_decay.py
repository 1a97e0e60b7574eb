"""Layer-wise learning-rate decay: the nearer to the input, the slower (Clark et al.: ELECTRA, 2020; BEiT, 2022)."""

import math
import re
from collections.abc import Iterable

_STAGE = re.compile(r"(?:stage|merge|merge_norm|(?:small_|large_)?encoder|fusion)_(\d+)")
_BLOCK = re.compile(r"(?:block|pair|attention|mlp)_(\d+)")
_LAST = re.compile(r"head/.*|backbone/(?:\w*norm|norm_\d+)/\w+")


def layer_scales(names: Iterable[str], decay: float) -> dict[str, float]:
    """Parameter name -> decay ** (layers above it); 1 for the head and the last norms.

    A layer is what stands at one depth: all branches' blocks of the same number in a stage, then the stage's fusion
    or merging. The embedding is the lowest.
    """
    depths = {name: _depth(name) for name in names}
    order = {depth: i for i, depth in enumerate(sorted({*depths.values(), _TOP}))}
    return {name: decay ** (len(order) - 1 - order[depth]) for name, depth in depths.items()}


_TOP = (math.inf, math.inf)


def _depth(name: str) -> tuple[float, float]:
    if _LAST.fullmatch(name):
        return _TOP
    stage = None
    for part in name.split("/")[1:]:
        if stage is None and (match := _STAGE.fullmatch(part)):
            stage = int(match.group(1))
            if not part.startswith(("stage", "small_", "large_", "encoder")):
                return stage, math.inf
        elif stage is not None and (match := _BLOCK.fullmatch(part)):
            return stage, int(match.group(1))
        elif stage is not None and part.startswith("fusion"):
            return stage, math.inf
    return (-1, 0) if stage is None else (stage, math.inf)
