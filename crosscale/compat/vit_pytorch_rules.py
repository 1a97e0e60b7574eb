"""vit-pytorch's state-dict names, as rule tables that are read in both directions."""

from crosscale.weights.rules import CONV, DENSE, Dropped, Layout, Rule, Rules, dense, norm

# CrossFormer's linear maps are 1 x 1 convolutions there, (out, in, 1, 1), its norms' vectors (1, C, 1, 1).
POINTWISE = Layout(lambda w: w.reshape(w.shape[0], -1).T, lambda w: w.T[:, :, None, None])
CHANNELS = Layout(lambda g: g.reshape(-1), lambda g: g.reshape(1, -1, 1, 1))


def cross_vit_rules() -> Rules:
    """The names of `vit_pytorch.cross_vit.CrossViT`."""
    rules: list[Rule | Dropped] = []
    for b, (theirs, ours) in enumerate((("sm", "small"), ("lg", "large"))):
        rules += _tokens(f"{theirs}_image_embedder", f"backbone/{ours}_tokens")
        encoder, our_encoder = f"multi_scale_encoder.layers.{{s}}.{b}", f"backbone/{ours}_encoder_{{s}}"
        rules += norm(f"{encoder}.norm", f"{our_encoder}/norm")
        rules += _attention(f"{encoder}.layers.{{i}}.0", f"{our_encoder}/attention_{{i}}")
        rules += norm(f"{encoder}.layers.{{i}}.1.net.0", f"{our_encoder}/mlp_{{i}}/norm")
        rules += dense(f"{encoder}.layers.{{i}}.1.net.1", f"{our_encoder}/mlp_{{i}}/expand")
        rules += dense(f"{encoder}.layers.{{i}}.1.net.4", f"{our_encoder}/mlp_{{i}}/contract")
        cross, our_cross = (
            f"multi_scale_encoder.layers.{{s}}.2.layers.{{i}}.{b}",
            f"backbone/fusion_{{s}}/{ours}_{{i}}",
        )
        rules += dense(f"{cross}.project_in", f"{our_cross}/enter")
        rules += _attention(f"{cross}.fn", f"{our_cross}/attention")
        rules += dense(f"{cross}.project_out", f"{our_cross}/leave")
        rules += norm(f"{theirs}_mlp_head.0", f"backbone/{ours}_norm")
        rules += dense(f"{theirs}_mlp_head.1", f"head/branch_{b}")
    return tuple(rules)


def _tokens(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.cls_token", f"{ours}/cls"),
        Rule(f"{theirs}.pos_embedding", f"{ours}/position"),
        *norm(f"{theirs}.to_patch_embedding.1", f"{ours}/patch_norm"),
        *dense(f"{theirs}.to_patch_embedding.2", f"{ours}/project"),
        *norm(f"{theirs}.to_patch_embedding.3", f"{ours}/norm"),
    ]


def _attention(theirs: str, ours: str) -> list[Rule]:
    return [
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        Rule(f"{theirs}.to_q.weight", f"{ours}/q/kernel", DENSE),
        Rule(f"{theirs}.to_kv.weight", f"{ours}/kv/kernel", DENSE),
        *dense(f"{theirs}.to_out.0", f"{ours}/out"),
    ]


def crossformer_rules() -> Rules:
    """The names of `vit_pytorch.crossformer.CrossFormer`; the index buffers, where saved, are left out."""
    convs, our_convs = "layers.{s}.0.convs.{k}", "backbone/stage_{s}/embed/conv_{k}"
    rules: list[Rule | Dropped] = [
        Rule(f"{convs}.weight", f"{our_convs}/kernel", CONV),
        Rule(f"{convs}.bias", f"{our_convs}/bias"),
        *dense("to_logits.1", "head/branch_0"),
    ]
    for kind, attention, mlp in (("short", 0, 1), ("long", 2, 3)):
        theirs, ours = "layers.{s}.1.layers.{i}", f"backbone/stage_{{s}}/pair_{{i}}/{kind}"
        rules += _window_attention(f"{theirs}.{attention}", f"{ours}_attention")
        rules += _channel_norm(f"{theirs}.{mlp}.0", f"{ours}_mlp/norm")
        rules += _pointwise(f"{theirs}.{mlp}.1", f"{ours}_mlp/expand")
        rules += _pointwise(f"{theirs}.{mlp}.4", f"{ours}_mlp/contract")
    return tuple(rules)


def _window_attention(theirs: str, ours: str) -> list[Rule | Dropped]:
    rules: list[Rule | Dropped] = [
        Dropped(f"{theirs}.rel_pos_indices"),
        *_channel_norm(f"{theirs}.norm", f"{ours}/norm"),
        Rule(f"{theirs}.to_qkv.weight", f"{ours}/qkv/kernel", POINTWISE),
        *_pointwise(f"{theirs}.to_out", f"{ours}/out"),
        *dense(f"{theirs}.dpb.9", f"{ours}/position_bias/out"),
    ]
    for i in range(3):  # linear, norm and ReLU, three times over
        rules += dense(f"{theirs}.dpb.{3 * i}", f"{ours}/position_bias/project_{i}")
        rules += norm(f"{theirs}.dpb.{3 * i + 1}", f"{ours}/position_bias/norm_{i}")
    return rules


def _channel_norm(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.g", f"{ours}/scale", CHANNELS), Rule(f"{theirs}.b", f"{ours}/bias", CHANNELS)]


def _pointwise(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", POINTWISE), Rule(f"{theirs}.bias", f"{ours}/bias")]
