"""The segmentation models' parameter names in mmsegmentation and in classifiers' files, as rule tables."""

from collections.abc import Iterable

from crosscale.layers.conv_norm import NormKind
from crosscale.models.crossformer.weights import OFFICIAL
from crosscale.weights.rules import CONV, Dropped, Rule, Rules, conv, norm

_CLASSIFIER = ("backbone/norm/", "head/")  # what the table of the classifiers has beyond the pyramid


def semantic_fpn_rules(kind: NormKind, blocks: int) -> Rules:
    """Semantic FPN's in mmsegmentation.

    Args:
      blocks: convolutions of the longest chain.
    """
    scales = (  # the odd places of a chain are enlargements, without weights
        r
        for block in range(blocks)
        for r in _conv_norm(f"decode_head.scale_heads.{{i}}.{2 * block}", f"head/scale_{{i}}/block_{block}", kind)
    )
    return (
        *backbone_rules(),
        *conv("neck.lateral_convs.{i}.conv", "neck/lateral_{i}"),
        *conv("neck.fpn_convs.{i}.conv", "neck/output_{i}"),
        *scales,
        *conv("decode_head.conv_seg", "head/classifier"),
    )


def upernet_rules(kind: NormKind, auxiliary: bool) -> Rules:
    """UPerNet's in mmsegmentation.

    Args:
      auxiliary: whether the model has the auxiliary head; its tensors are left out where not.
    """
    head = "decode_head"
    aux = [
        *_conv_norm("auxiliary_head.convs.0", "auxiliary_head/block_0", kind),
        *conv("auxiliary_head.conv_seg", "auxiliary_head/classifier"),
    ]
    return (
        *backbone_rules(),
        *_conv_norm(f"{head}.psp_modules.{{i}}.1", "head/pool_{i}", kind),
        *_conv_norm(f"{head}.bottleneck", "head/bottleneck", kind),
        *_conv_norm(f"{head}.lateral_convs.{{i}}", "head/lateral_{i}", kind),
        *_conv_norm(f"{head}.fpn_convs.{{i}}", "head/output_{i}", kind),
        *_conv_norm(f"{head}.fpn_bottleneck", "head/fuse", kind),
        *conv(f"{head}.conv_seg", "head/classifier"),
        *(aux if auxiliary else _dropped(aux)),
    )


def classifier_rules() -> dict[str, Rules]:
    """The released classifiers' files, whose last norm and head a segmentation model does without."""
    kept = [r for r in OFFICIAL if not _of_classifier(r)]
    return {"official": (*kept, *_dropped(r for r in OFFICIAL if _of_classifier(r)))}


def backbone_rules() -> Rules:
    """The pyramid's, which all released models on it have."""
    return [
        Rule(f"backbone.{r.theirs}", r.ours, r.layout) if isinstance(r, Rule) else Dropped(f"backbone.{r.theirs}")
        for r in OFFICIAL
        if not _of_classifier(r)
    ]


def _of_classifier(rule: Rule | Dropped) -> bool:
    return isinstance(rule, Rule) and rule.ours.startswith(_CLASSIFIER)


def _conv_norm(theirs: str, ours: str, kind: NormKind) -> list[Rule | Dropped]:
    """A convolution without bias, and its norm."""
    rules: list[Rule | Dropped] = [Rule(f"{theirs}.conv.weight", f"{ours}/conv/kernel", CONV)]
    if kind == "group":
        return [*rules, *norm(f"{theirs}.gn", f"{ours}/norm")]
    return [
        *rules,
        *norm(f"{theirs}.bn", f"{ours}/norm"),
        Rule(f"{theirs}.bn.running_mean", f"{ours}/norm/mean"),
        Rule(f"{theirs}.bn.running_var", f"{ours}/norm/var"),
        Dropped(f"{theirs}.bn.num_batches_tracked", beside=f"{ours}/norm/var"),
    ]


def _dropped(rules: Iterable[Rule | Dropped]) -> list[Rule | Dropped]:
    return [Dropped(r.theirs) for r in rules]
