"""How far every preset is from its PyTorch reference, with the reference's own random weights.

    python -m benchmarks.parity [PATTERN] [--json]     # needs the parity extra: pip install -e '.[parity]'

Deviation is the largest absolute difference over the largest magnitude of the reference's output, float32.
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
from crosscale.models.registry import get_preset
from crosscale.pretrained import parameter_shapes, to_variables


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
    reference = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # biases and norms away from 0 and 1, or errors there would hide
            parameter.add_(0.02 * torch.randn_like(parameter))
    images = torch.randn(batch, 3, *get_preset(name).input_spec.size)
    model = crosscale.create_model(name)
    weights = {k: v.numpy() for k, v in reference.state_dict().items()}
    return reference, images, model, to_variables(weights, model, None, name)


def compare(name: str) -> dict[str, Any]:
    """One row of the table: parameters and the largest deviations of logits and pooled vectors."""
    import torch

    reference, images, model, variables = reference_and_ours(name, batch=1)
    with torch.no_grad():
        tokens = [t[:, 0].numpy() for t in reference.forward_features(images)]
        logits = reference(images).numpy()

    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        return model.apply(variables, images), model.apply(variables, images, method="features").pooled

    ours, pooled = run(variables, jnp.asarray(images.numpy().transpose(0, 2, 3, 1)))
    return {
        "model": name,
        "params": sum(int(np.prod(shape)) for shape in parameter_shapes(model).values()),
        "published_params": get_preset(name).published.params,
        "logits": deviation(ours, logits),
        "pooled": max(deviation(a, b) for a, b in zip(pooled, tokens, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="crossvit_*", help="presets, shell-style (default crossvit_*)")
    parser.add_argument("--json", action="store_true", help="one JSON list on standard output")
    args = parser.parse_args()
    rows = []
    if not args.json:
        print(f"{'preset':24} {'parameters':>12} {'published':>12} {'logits':>9} {'pooled':>9}")
    for name in crosscale.list_models(args.pattern):
        row = compare(name)
        rows.append(row)
        if not args.json:
            print(
                "{model:24} {params:12,} {published_params:12,} {logits:9.1e} {pooled:9.1e}".format(**row),
                flush=True,
            )
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
