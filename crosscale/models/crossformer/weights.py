"""CrossFormer's parameter names in the released code, as one rule table read in both directions."""

from crosscale.weights.rules import Dropped, Rules, conv, dense, norm

_BLOCK = "layers.{s}.blocks.{i}"
_OURS = "backbone/stage_{s}/block_{i}"
_BIAS = f"{_OURS}/attention/position_bias"

OFFICIAL: Rules = (
    *conv("patch_embed.projs.{k}", "backbone/embed/scale_{k}"),
    *norm("patch_embed.norm", "backbone/embed_norm"),
    *norm(f"{_BLOCK}.norm1", f"{_OURS}/norm1"),
    *dense(f"{_BLOCK}.attn.qkv", f"{_OURS}/attention/qkv"),
    *dense(f"{_BLOCK}.attn.proj", f"{_OURS}/attention/out"),
    *dense(f"{_BLOCK}.attn.pos.pos_proj", f"{_BIAS}/dense_0"),
    *norm(f"{_BLOCK}.attn.pos.pos{{k}}.0", f"{_BIAS}/norm_{{k}}"),
    # One rule each: our dense_0 is another of their layers and would fit a template for all three.
    *(r for k in (1, 2, 3) for r in dense(f"{_BLOCK}.attn.pos.pos{k}.2", f"{_BIAS}/dense_{k}")),
    *norm(f"{_BLOCK}.norm2", f"{_OURS}/norm2"),
    *dense(f"{_BLOCK}.mlp.fc1", f"{_OURS}/mlp/expand"),
    *dense(f"{_BLOCK}.mlp.fc2", f"{_OURS}/mlp/contract"),
    *conv(f"{_BLOCK}.ex_conv", f"{_OURS}/cooling/conv"),
    *norm(f"{_BLOCK}.ex_ln", f"{_OURS}/cooling/norm"),
    *norm("layers.{s}.downsample.norm", "backbone/merge_norm_{s}"),
    *conv("layers.{s}.downsample.reductions.{k}", "backbone/merge_{s}/scale_{k}"),
    *norm("norm", "backbone/norm"),
    *dense("head", "head/branch_0"),
    # Index buffers that the first release saved with the weights; they follow from the group's size.
    Dropped(f"{_BLOCK}.attn.biases"),
    Dropped(f"{_BLOCK}.attn.relative_position_index"),
)
