"""CrossViT's parameter names in other projects: one rule table per scheme, read in both directions."""

from crosscale.models.crossvit.config import CrossViTConfig
from crosscale.weights.rules import Rule, Rules, conv, dense, norm

_OURS = "backbone/stage_{s}"

# Said when such weights are loaded: they were trained with something that the model here does differently.
REMARKS = {
    "mindcv": "MindCV trained with bilinear rescaling, an approximate GELU and another epsilon in the blocks' norms: "
    "logits here differ a little from its own",
}


def weight_rules(config: CrossViTConfig) -> dict[str, Rules]:
    """The schemes that can hold this configuration: the released code has one fusion and always CLS tokens."""
    if not config.cls_token or config.fusion not in ("cross_attention", "none"):
        return {}
    if len(config.patch_size) == 1:
        return {"timm": vit_rules()} if len(config.depth) == 1 and not config.multi_conv else {}
    if config.fusion == "none":
        return {}
    return {"timm": timm_rules(config), "ibm": ibm_rules(config), "mindcv": mindcv_rules(config)}


def vit_rules() -> Rules:
    """timm's names of a plain ViT (`vision_transformer.py`), for one branch in one stage."""
    ours = "backbone/stage_0/branch_0/block_{i}"
    return (
        Rule("cls_token", "backbone/embed_0/cls"),
        Rule("pos_embed", "backbone/embed_0/position"),
        *conv("patch_embed.proj", "backbone/embed_0/patches"),
        *_block("blocks.{i}", ours),
        *norm("norm", "backbone/norm_0"),
        *dense("head", "head/branch_0"),
    )


def timm_rules(config: CrossViTConfig) -> Rules:
    """timm's names (`crossvit.py`)."""
    return (
        Rule("cls_token_{b}", "backbone/embed_{b}/cls"),
        Rule("pos_embed_{b}", "backbone/embed_{b}/position"),
        *_shared(config),
    )


def ibm_rules(config: CrossViTConfig) -> Rules:
    """The released code's names: as timm's, except for the two tables."""
    return (
        Rule("cls_token.{b}", "backbone/embed_{b}/cls"),
        Rule("pos_embed.{b}", "backbone/embed_{b}/position"),
        *_shared(config),
    )


def mindcv_rules(config: CrossViTConfig) -> Rules:
    """MindCV's names, as MindSpore writes them into a checkpoint.

    Norms have "gamma" and "beta", and a stage's only fusion has an index. MindSpore names the first stage "0."
    instead of "blocks.0.", and the further ones after the first tensor of the first: "0.blocks.0.1.",
    "0.blocks.0.2." and so on.
    """
    rules: list[Rule] = []
    for rule in ibm_rules(config):
        assert isinstance(rule, Rule)
        theirs = rule.theirs
        if rule.ours.endswith("/scale") or "norm" in rule.ours.split("/")[-2]:
            theirs = theirs.removesuffix(".weight").removesuffix(".bias")
            theirs += ".gamma" if rule.ours.endswith("/scale") else ".beta"
        if not theirs.startswith("blocks."):
            rules.append(Rule(theirs, rule.ours, rule.layout))
            continue
        if "fusion.{b}.{i}" not in theirs:
            theirs = theirs.replace("fusion.{b}.", "fusion.{b}.0.")
        for stage in range(len(config.depth)):
            own = theirs.replace("blocks.{s}.", f"blocks.{stage}.", 1)  # the fusion's rules name their stage
            if own.startswith(f"blocks.{stage}."):
                prefix = f"0.blocks.0.{stage}." if stage else "0."
                ours = rule.ours.replace("{s}", str(stage))
                rules.append(Rule(prefix + own.removeprefix(f"blocks.{stage}."), ours, rule.layout))
    return tuple(rules)


def _shared(config: CrossViTConfig) -> Rules:
    return (
        *_embedding(config.multi_conv),
        *_block("blocks.{s}.blocks.{b}.{i}", f"{_OURS}/branch_{{b}}/block_{{i}}"),
        *norm("blocks.{s}.projs.{b}.0", f"{_OURS}/fusion_{{b}}/enter/norm"),
        *dense("blocks.{s}.projs.{b}.2", f"{_OURS}/fusion_{{b}}/enter/linear"),
        *(rule for s, stage in enumerate(config.depth) for rule in _fusion(s, stage[-1])),
        *norm("blocks.{s}.revert_projs.{b}.0", f"{_OURS}/fusion_{{b}}/leave/norm"),
        *dense("blocks.{s}.revert_projs.{b}.2", f"{_OURS}/fusion_{{b}}/leave/linear"),
        *norm("norm.{b}", "backbone/norm_{b}"),
        *dense("head.{b}", "head/branch_{b}"),
    )


def _block(theirs: str, ours: str) -> Rules:
    return (
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *dense(f"{theirs}.attn.qkv", f"{ours}/attention/qkv"),
        *dense(f"{theirs}.attn.proj", f"{ours}/attention/out"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *dense(f"{theirs}.mlp.fc1", f"{ours}/mlp/expand"),
        *dense(f"{theirs}.mlp.fc2", f"{ours}/mlp/contract"),
    )


def _fusion(stage: int, depth: int) -> Rules:
    # With fusion depth 0 the reference has one block there, and no index for it.
    theirs = f"blocks.{stage}.fusion.{{b}}" + (".{i}" if depth else "")
    ours = f"backbone/stage_{stage}/fusion_{{b}}/" + ("block_{i}" if depth else "block_0")
    return (
        *norm(f"{theirs}.norm1", f"{ours}/norm"),
        *dense(f"{theirs}.attn.wq", f"{ours}/attention/q"),
        *dense(f"{theirs}.attn.wk", f"{ours}/attention/k"),
        *dense(f"{theirs}.attn.wv", f"{ours}/attention/v"),
        *dense(f"{theirs}.attn.proj", f"{ours}/attention/out"),
    )


def _embedding(multi_conv: bool) -> Rules:
    if not multi_conv:
        return tuple(conv("patch_embed.{b}.proj", "backbone/embed_{b}/patches"))
    return tuple(
        rule
        for theirs, ours in ((0, 0), (2, 1), (4, 2))
        for rule in conv(f"patch_embed.{{b}}.proj.{theirs}", f"backbone/embed_{{b}}/stem/conv_{ours}")
    )
