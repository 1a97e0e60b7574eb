"""Makes the small goldens of this folder with timm, for tests that need no torch.

    python tests/golden/crossvit/make_goldens.py        # needs the parity extra

Each .npz holds narrow seeded weights of one topology under timm's names, a batch of images (NCHW as timm takes
it), and timm's logits, pooled CLS tokens and normalised patch tokens.
"""

import sys
import types
from pathlib import Path

sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from timm.models.crossvit import CrossVit  # noqa: E402

HERE = Path(__file__).parent
NARROW = {
    "embed_dim": (8, 16),
    "num_heads": (2, 2),
    "mlp_ratio": (2.0, 1.5, 1.0),
    "num_classes": 5,
    "qkv_bias": True,
}
# name: constructor fields, image side
TOPOLOGIES = {
    "plain": ({"img_size": 60, "img_scale": (1.0, 0.8), "depth": ((1, 2, 0),) * 3}, (60, 60)),
    "dagger": (
        {"img_size": 48, "img_scale": (1.0, 2 / 3), "depth": ((1, 2, 0),) * 2, "multi_conv": True},
        (48, 48),
    ),
    "dagger_408": (
        {"img_size": 102, "img_scale": (1.0, 96 / 102), "depth": ((1, 2, 0),) * 2, "patch_size": (6, 12)},
        (102, 102),
    ),
    "deep_fusion": (
        {"img_size": 48, "img_scale": (1.0, 2 / 3), "depth": ((2, 1, 2),) * 2, "qkv_bias": False},
        (48, 48),
    ),
    "center_crop": (
        {"img_size": 48, "img_scale": (1.0, 2 / 3), "depth": ((1, 1, 1),), "crop_scale": True},
        (57, 57),
    ),
    "non_square": (
        {"img_size": (48, 72), "img_scale": (1.0, 2 / 3), "depth": ((1, 1, 0),) * 2, "in_chans": 2},
        (50, 70),
    ),
    "unequal_heads": (
        {"img_size": 48, "img_scale": (1.0, 2 / 3), "depth": ((1, 1, 0),) * 2, "num_heads": (2, 4)},
        (48, 48),
    ),
}


def main() -> None:
    for seed, (name, (fields, size)) in enumerate(TOPOLOGIES.items()):
        torch.manual_seed(seed)
        fields = {**NARROW, "patch_size": (12, 16), **fields}
        model = CrossVit(**fields).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms away from 0 and 1, or errors in them would hide
                parameter.add_(0.1 * torch.randn_like(parameter))
        batch = 1 if max(size) > 80 else 2  # the larger pictures would pass the size limit
        images = torch.randn(batch, fields.get("in_chans", 3), *size)
        with torch.no_grad():
            tokens = model.forward_features(images)
            logits = model(images)
        arrays = {f"weights/{k}": v.numpy() for k, v in model.state_dict().items()}
        arrays |= {f"tokens/{b}": t.numpy() for b, t in enumerate(tokens)}
        sizes = [list(s) for s in model.img_size_scaled]
        np.savez_compressed(
            HERE / f"{name}.npz",
            images=images.numpy(),
            logits=logits.numpy(),
            sizes=np.array(sizes),
            **arrays,
        )
        print(name, (HERE / f"{name}.npz").stat().st_size)


if __name__ == "__main__":
    main()
