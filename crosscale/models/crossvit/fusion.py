"""How the branches of a stage exchange what they saw (CrossViT section 3.3): one function each, one signature.

To add a fusion: write `name(tokens, settings, train) -> tokens`, add it to FUSIONS and to config.Fusion.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.attention import ClassAttention
from crosscale.layers.dense import Dense
from crosscale.layers.drop_path import DropPath
from crosscale.layers.mlp import gelu

Tokens = tuple[Array, ...]  # one (B, 1 + N_b, C_b) per branch, CLS first


@dataclass(frozen=True)
class FusionSettings:
    """What any fusion may need to know of its stage; one entry per branch where it is a tuple."""

    depth: int
    num_heads: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    qkv_bias: bool
    qk_scale: float | None
    drop_rate: float
    attn_drop_rate: float
    drop_path_rate: float
    norm_layer: Callable[..., nn.Module]
    dtype: Any


class Project(nn.Module):
    """Norm -> GELU -> linear: the f and g of equations (2)-(5)."""

    features: int
    norm_layer: Callable[..., nn.Module]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = gelu(self.norm_layer(dtype=self.dtype, name="norm")(x))
        return Dense(self.features, dtype=self.dtype, name="linear")(x)


class ClassBlock(nn.Module):
    """CLS token + attention of the CLS token over all tokens of `x` (eq. 5); no perceptron. (B, N, C) -> (B, 1, C)."""

    num_heads: int
    settings: FusionSettings

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        s = self.settings
        attention = ClassAttention(
            self.num_heads, s.qkv_bias, s.qk_scale, s.attn_drop_rate, s.drop_rate, s.dtype, name="attention"
        )
        y = attention(s.norm_layer(dtype=s.dtype, name="norm")(x), train)
        return x[:, :1] + DropPath(s.drop_path_rate)(y, train)


class CrossAttention(nn.Module):
    """One direction of the exchange: this branch's CLS token queries another branch's patches.

    The token is projected to the other branch's width, attends, and is projected back; the result replaces
    the CLS token. Depth 0 and 1 both mean one block (they differ in the reference's parameter names only).
    From the second block on the CLS token has only itself to attend to, as in the released code.
    """

    num_heads: int
    settings: FusionSettings

    @nn.compact
    def __call__(self, cls: Array, patches: Array, train: bool = False) -> Array:
        """(B, 1, C_own), (B, N, C_other) -> (B, 1, C_own)."""
        s = self.settings
        query = Project(patches.shape[-1], s.norm_layer, s.dtype, name="enter")(cls)
        x = jnp.concatenate([query, patches], axis=1)
        for i in range(max(s.depth, 1)):
            x = ClassBlock(self.num_heads, s, name=f"block_{i}")(x, train)
        return Project(cls.shape[-1], s.norm_layer, s.dtype, name="leave")(x)


def cross_attention(tokens: Tokens, settings: FusionSettings, train: bool) -> Tokens:
    """Cross-attention fusion (section 3.3, eq. 5), round the ring: branch b queries the patches of branch b + 1.

    With two branches this is the paper's exchange. All directions read the tokens from before the fusion.
    """
    fused = []
    for b, own in enumerate(tokens):
        other = (b + 1) % len(tokens)
        direction = CrossAttention(settings.num_heads[other], settings, name=f"fusion_{b}")
        cls = direction(own[:, :1], tokens[other][:, 1:], train)
        fused.append(jnp.concatenate([cls, own[:, 1:]], axis=1))
    return tuple(fused)


def none(tokens: Tokens, settings: FusionSettings, train: bool) -> Tokens:
    """No exchange: independent branches, joined only by the mean of their logits."""
    del settings, train
    return tokens


FUSIONS: dict[str, Callable[[Tokens, FusionSettings, bool], Tokens]] = {
    "cross_attention": cross_attention,
    "none": none,
}
