"""What the released CrossFormer code is asked to build as the peer of a model of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosscale.errors import RequestError

CLASSIFIER, BACKBONE = "models/crossformer.py", "models/crossformer_backbone.py"  # the latter on branch `crossformer`
_DENSE = "semantic_fpn_crossformer"


def peer_of(name: str, model: Any) -> dict[str, Any]:
    """The fields of a request that tell the released code which network it is; "peer_head" where it segments.

    Raises:
      RequestError: the released code has no such model.
    """
    if name.startswith("crossformer_"):
        return {"peer_file": CLASSIFIER, "peer_options": _classifier_options(model)}
    if not name.startswith(_DENSE):
        raise RequestError(
            f"--against official: the released code has no {name}; it has crossformer_* and {_DENSE}_*, and "
            "--against timm compares CrossViT"
        )
    unlike = {"grouping": "whole", "group_type": "constant", "use_acl": False, "norm": "batch"}
    for field, value in unlike.items():
        if getattr(model, field) != value:
            raise RequestError(f"--against official: {name} has {field}={getattr(model, field)}, its peer only {value}")
    head = {
        "widths": [model.embed_dim * 2**stage for stage in range(len(model.depths))],
        "neck": model.neck_channels,
        "head": model.head_channels,
        "classes": model.num_classes,
    }
    return {"peer_file": BACKBONE, "peer_options": _backbone_options(model), "peer_head": head}


def check_checkout(requests: Sequence[dict[str, Any]]) -> None:
    """Raises RequestError where "peer_repo" is missing or lacks the file that one of the requests needs."""
    for request in requests:
        if request["peer_repo"] is None:
            raise RequestError("--against official needs --peer-repo PATH, a checkout of the released CrossFormer code")
        file = request["peer_file"]
        if not (Path(request["peer_repo"]) / file).is_file():
            where, branch = f"--peer-repo {request['peer_repo']}", "crossformer" if file == BACKBONE else "main"
            raise RequestError(f"{where}: holds no {file}, which {request['model']} needs (branch {branch})")


def _backbone_options(model: Any) -> dict[str, Any]:
    """The constructor arguments of the released dense backbone."""
    each = {name: list(getattr(model, name)) for name in ("patch_size", "depths", "num_heads", "group_size")}
    return {
        **each,
        "img_size": model.input_size[0],
        "in_chans": model.in_channels,
        "embed_dim": model.embed_dim,
        "crs_interval": list(model.interval),
        "merge_size": [list(kernels) for kernels in model.merge_size],
        "mlp_ratio": model.mlp_ratio,
        "qkv_bias": model.qkv_bias,
        "qk_scale": model.qk_scale,
        "patch_norm": model.patch_norm,
    }


def _classifier_options(model: Any) -> dict[str, Any]:
    """The constructor arguments of the released classifier."""
    return {
        **_backbone_options(model),
        "num_classes": model.num_classes,
        "mlp_ratio": [model.mlp_ratio] * len(model.depths),
        "group_type": model.group_type,
        "use_acl": model.use_acl,
    }
