"""What every model on CrossViT's backbone says of itself, whatever its head."""

import math

from crosscale.models.crossvit.config import CrossViTConfig
from crosscale.models.description import BOTTOM, LAST, TOP, Layer
from crosscale.weights.positions import PositionTable

BACKBONE = "backbone/"


def layer_of(name: str) -> Layer:
    """A stage's blocks of one number, of all branches, are a layer, and so is its fusion; the embeddings are the
    lowest."""
    part, _, rest = name.removeprefix(BACKBONE).partition("/")
    if not name.startswith(BACKBONE) or part.startswith("norm_"):
        return TOP
    if part.startswith("embed_"):
        return BOTTOM
    inner = rest.split("/")
    block = inner[1].removeprefix("block_") if inner[0].startswith("branch_") else math.inf
    return int(part.removeprefix("stage_")), float(block)


def by_stage(c: CrossViTConfig, layer: Layer) -> Layer:
    """A layer as timm counts it: of several branches a whole stage is one."""
    return (layer[0], 0) if len(c.patch_size) > 1 and layer not in (BOTTOM, LAST, TOP) else layer


def position_tables(c: CrossViTConfig) -> dict[str, PositionTable]:
    """Each branch's positions, by parameter name."""
    return {f"{BACKBONE}embed_{b}/position": PositionTable(grid, c.cls_token) for b, grid in enumerate(c.grids)}
