"""The whole zoo: parameters, multiply-accumulates, published accuracy, and the deviation from the PyTorch reference.

    python -m benchmarks.parity [PATTERN] [--json]     # needs the parity extra: pip install -e '.[parity]'

Deviation is the largest absolute difference over the largest magnitude of the reference's output, float32, both
with the same seeded random weights. CrossViT and DeiT run beside timm. CrossFormer's released code is on no package
index: its outputs are the committed goldens of tests/golden/crossformer (make_goldens.py made them).
"""

import argparse
import json
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import crosscale
from crosscale.measure import count_costs
from crosscale.models.registry import get_preset
from crosscale.pretrained import to_variables
from tests.golden.crossformer import crossformer_seeded


def deviation(ours: Any, theirs: Any) -> float:
    """Largest absolute difference over the largest magnitude; the shapes must be equal."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def import_timm() -> Any:
    # timm imports torchvision, whose operators may be compiled for another build of torch; models do not need them
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    import timm

    return timm


def reference_and_ours(name: str, batch: int) -> tuple[Any, Any, Any, Any]:
    """timm's model with seeded random weights, a seeded batch (NCHW), our model and its variables."""
    timm = import_timm()
    import torch

    torch.manual_seed(1)
    theirs = get_preset(name).hub.removeprefix("timm/").split(".")[0]
    reference = timm.create_model(theirs, pretrained=False).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # biases and norms away from 0 and 1, or errors there would hide
            parameter.add_(0.02 * torch.randn_like(parameter))
    images = torch.randn(batch, 3, *get_preset(name).input_spec.size)
    model = crosscale.create_model(name)
    weights = {k: v.numpy() for k, v in reference.state_dict().items()}
    return reference, images, model, to_variables(weights, model, None, name)


def compare(name: str) -> dict[str, Any]:
    """One row of the table: what the preset costs, and the largest deviations of logits and pooled vectors."""
    preset = get_preset(name)
    model = crosscale.create_model(name)
    costs = count_costs(model, preset.input_spec)
    logits, pooled = _against_golden(name) if name.startswith("crossformer") else _against_timm(name)
    return {
        "model": name,
        "params": costs.parameters,
        "published_params": preset.published.params,
        "gmacs": costs.formula_macs / 1e9,
        "published_gmacs": preset.published.gmacs,
        "top1": preset.published.top1,
        "logits": logits,
        "pooled": pooled,
    }


def _against_timm(name: str) -> tuple[float, float]:
    import torch

    reference, images, model, variables = reference_and_ours(name, batch=1)
    with torch.no_grad():
        tokens = reference.forward_features(images)
        tokens = [t[:, 0].numpy() for t in (tokens if isinstance(tokens, list) else [tokens])]
        logits = reference(images).numpy()
    ours, pooled = _run(model, variables, jnp.asarray(images.numpy().transpose(0, 2, 3, 1)))
    return deviation(ours, logits), max(deviation(a, b) for a, b in zip(pooled, tokens, strict=True))


def _against_golden(name: str) -> tuple[float, float]:
    meta, arrays = crossformer_seeded.read(name)
    model = crosscale.create_model(name)
    variables = to_variables(crossformer_seeded.weights(meta["shapes"]), model, "official", name)
    images = crossformer_seeded.images(meta["batch"], model.in_channels, meta["size"])
    ours, pooled = _run(model, variables, images)
    return deviation(ours, arrays["logits"]), deviation(pooled[0], arrays["pooled"])


def _run(model: Any, variables: Any, images: Any) -> Any:
    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        features = model.apply(variables, images, method="features")
        return model.apply(variables, features, method=lambda m, f: m.head(f)), features.pooled

    return run(variables, images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="*", help="presets, shell-style (default: all with a reference)")
    parser.add_argument("--json", action="store_true", help="one JSON list on standard output")
    args = parser.parse_args()
    rows = []
    if not args.json:
        print("| preset | parameters | published | GMACs | published | top-1 | logits | pooled |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in comparable(args.pattern):
        row = compare(name)
        rows.append(row)
        if not args.json:
            print(
                "| {model} | {params:,} | {published_params:,} | {gmacs:.2f} | {published_gmacs} | {top1} "
                "| {logits:.1e} | {pooled:.1e} |".format(**row),
                flush=True,
            )
    if args.json:
        print(json.dumps(rows))


def comparable(pattern: str = "*") -> list[str]:
    """Presets with a reference: all but the one whose weights were never released (same topology as the 408 ones)."""
    return [n for n in crosscale.list_models(pattern) if get_preset(n).hub or n.startswith("crossformer")]


if __name__ == "__main__":
    main()
