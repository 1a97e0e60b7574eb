"""How the branches of a stage exchange what they saw (CrossViT section 3.3): one function each, one signature.

To add a fusion: write `name(tokens, settings, train) -> tokens`, add it to FUSIONS and to config.Fusion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from crosscale.contracts import Array
from crosscale.layers.attention import ClassAttention, SelfAttention
from crosscale.layers.dense import Dense
from crosscale.layers.drop_path import DropPath
from crosscale.layers.kernels import gelu
from crosscale.layers.resize import resize_bicubic

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
        x: Array = jnp.concatenate([query, patches], axis=1)
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


def class_token(tokens: Tokens, settings: FusionSettings, train: bool) -> Tokens:
    """Class token fusion (eq. 3): every branch's CLS token becomes g(sum of f(CLS)) over all branches.

    f and g project to and from the widest branch's width; for branches of that width they are the identity
    (with a projection there too, Table 6's 24.2 M parameters would be 25.1 M).
    """
    del train
    total: Any = sum(_to_widest(tokens, [x[:, :1] for x in tokens], settings))
    return tuple(jnp.concatenate([_from_widest(total, x, b, settings), x[:, 1:]], axis=1) for b, x in enumerate(tokens))


def pairwise(tokens: Tokens, settings: FusionSettings, train: bool) -> Tokens:
    """Pairwise fusion (eq. 4): as class token fusion, and the patch tokens of one place are summed as well.

    The other branches' patches are interpolated bicubically to the branch's own grid before the sum.
    """
    del train
    aligned = _to_widest(tokens, tokens, settings)
    cls: Any = sum(x[:, :1] for x in aligned)
    maps = [x[:, 1:].reshape(x.shape[0], *g, -1) for x, g in zip(aligned, settings.grids, strict=True)]
    fused = []
    for b, own in enumerate(tokens):
        patches: Any = sum(resize_bicubic(m, settings.grids[b]) for m in maps)
        both = jnp.concatenate([cls, patches.reshape(own.shape[0], -1, patches.shape[-1])], axis=1)
        fused.append(_from_widest(both, own, b, settings))
    return tuple(fused)


def all_attention(tokens: Tokens, settings: FusionSettings, train: bool) -> Tokens:
    """All-attention fusion (eq. 2): self-attention over the tokens of all branches; quadratic in their number.

    Every branch is projected to the widest branch's width and back, the widest itself included: only so do the
    multiply-accumulates of Table 6 (7.6 G) come out.
    """
    s = settings
    width = max(x.shape[-1] for x in tokens)
    widest = next(b for b, x in enumerate(tokens) if x.shape[-1] == width)
    y = jnp.concatenate(
        [Project(width, s.norm_layer, s.dtype, name=f"enter_{b}")(x) for b, x in enumerate(tokens)], axis=1
    )
    attention = SelfAttention(
        s.num_heads[widest], s.qkv_bias, s.qk_scale, s.attn_drop_rate, s.drop_rate, s.dtype, name="attention"
    )
    o = attention(s.norm_layer(dtype=s.dtype, name="norm")(y), train=train)
    o = y + DropPath(s.drop_path_rate)(o, train)
    ends = [sum(x.shape[1] for x in tokens[: b + 1]) for b in range(len(tokens))]
    return tuple(
        Project(x.shape[-1], s.norm_layer, s.dtype, name=f"leave_{b}")(o[:, end - x.shape[1] : end])
        for b, (x, end) in enumerate(zip(tokens, ends, strict=True))
    )


def _to_widest(tokens: Tokens, parts: Sequence[Array], s: FusionSettings) -> list[Array]:
    """f: each branch's `parts` at the widest branch's width."""
    width = max(x.shape[-1] for x in tokens)
    return [
        x if x.shape[-1] == width else Project(width, s.norm_layer, s.dtype, name=f"enter_{b}")(x)
        for b, x in enumerate(parts)
    ]


def _from_widest(x: Array, own: Array, branch: int, s: FusionSettings) -> Array:
    """g: `x` back at the width of branch `branch`, whose tokens are `own`."""
    if x.shape[-1] == own.shape[-1]:
        return x
    return Project(own.shape[-1], s.norm_layer, s.dtype, name=f"leave_{branch}")(x)


def none(tokens: Tokens, settings: FusionSettings, train: bool) -> Tokens:
    """No exchange: independent branches, joined only by the mean of their logits."""
    del settings, train
    return tokens


FUSIONS: dict[str, Callable[[Tokens, FusionSettings, bool], Tokens]] = {
    "cross_attention": cross_attention,
    "class_token": class_token,
    "pairwise": pairwise,
    "all_attention": all_attention,
    "none": none,
}
