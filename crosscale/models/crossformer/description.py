"""What every model on CrossFormer's backbone says of itself, whatever its head."""

import math

from crosscale.models.crossformer.config import CrossFormerConfig
from crosscale.models.description import BOTTOM, TOP, Layer, OpenSizes

BACKBONE = "backbone/"


def layer_of(name: str) -> Layer:
    """Every block is a layer, and every merging with its norm; the embedding is the lowest."""
    part, _, rest = name.removeprefix(BACKBONE).partition("/")
    # The embedding's norm keeps the whole rate, as the last norm does: runs that go on must keep theirs.
    if not name.startswith(BACKBONE) or part in ("norm", "embed_norm"):
        return TOP
    if part == "embed":
        return BOTTOM
    kind, _, stage = part.rpartition("_")
    block = rest.split("/")[0].removeprefix("block_") if kind == "stage" else math.inf
    return int(stage), float(block)


def open_sizes(c: CrossFormerConfig) -> OpenSizes:
    """The last stage's stride, and the smallest size at which every stage's map is larger than its groups: below it the
    program depends on the size.

    Long-distance groups over the whole map also want maps of whole intervals: then no cell is padding, which is what
    a size left open can say.
    """
    step = c.strides[-1]
    if c.grouping == "whole":
        step = math.lcm(step, *(stride * gap for stride, gap in zip(c.strides, c.interval, strict=True)))
    largest = max(max(sizes) * stride for sizes, stride in zip(c.group_sizes, c.strides, strict=True))
    return OpenSizes(step, (largest // step + 1) * step)
