"""Cross-scale vision transformers on JAX and Flax Linen.

    model = crosscale.create_model("crossvit_9_240", num_classes=10)
    variables = model.init(jax.random.key(0), images)   # images: (B, H, W, 3) float, normalised
    logits = model.apply(variables, images)             # (B, 10)

Names are imported when they are first used, so that `crosscale --help` need not wait for JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosscale.contracts import Features as Features
    from crosscale.contracts import InputSpec as InputSpec
    from crosscale.errors import RequestError as RequestError
    from crosscale.errors import WorkError as WorkError
    from crosscale.layers.norm import LayerNorm as LayerNorm
    from crosscale.models.crossformer.backbone import CrossFormer as CrossFormer
    from crosscale.models.crossvit.backbone import CrossViT as CrossViT
    from crosscale.models.registry import create_model as create_model
    from crosscale.models.registry import list_models as list_models
    from crosscale.pretrained import load_pretrained as load_pretrained
    from crosscale.pretrained import load_weights as load_weights
    from crosscale.pretrained import save_pretrained as save_pretrained
    from crosscale.pretrained import save_weights as save_weights

__version__ = "0.1.0"

__all__ = [
    "CrossFormer",
    "CrossViT",
    "Features",
    "InputSpec",
    "LayerNorm",
    "RequestError",
    "WorkError",
    "__version__",
    "compat",
    "create_model",
    "data",
    "explain",
    "export",
    "list_models",
    "load_pretrained",
    "load_weights",
    "measure",
    "predictor",
    "save_pretrained",
    "save_weights",
]

_HOMES = {
    "Features": "contracts",
    "InputSpec": "contracts",
    "RequestError": "errors",
    "WorkError": "errors",
    "LayerNorm": "layers.norm",
    "CrossFormer": "models.crossformer.backbone",
    "CrossViT": "models.crossvit.backbone",
    "create_model": "models.registry",
    "list_models": "models.registry",
    "load_pretrained": "pretrained",
    "load_weights": "pretrained",
    "save_pretrained": "pretrained",
    "save_weights": "pretrained",
}
_MODULES = ("compat", "explain", "measure", "predictor", "data", "export")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"crosscale.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"crosscale.{name}")
    raise AttributeError(f"module 'crosscale' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])
