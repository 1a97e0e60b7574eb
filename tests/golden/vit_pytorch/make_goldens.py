"""Makes the small goldens of this folder with vit-pytorch, for tests that need no torch.

    python tests/golden/vit_pytorch/make_goldens.py        # needs the parity extra

Each .npz holds a narrow seeded model's constructor fields (JSON), its state dict, a batch of images (NHWC),
the package's logits, and, where asked for, the gradients of `loss`. Weights are rounded to float16 before use,
which halves the file and loses nothing.
"""

import json
import sys
import types
from pathlib import Path

# vit-pytorch imports torchvision, whose operators may be missing beside another build of torch; none is used
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from vit_pytorch.cross_vit import CrossViT  # noqa: E402
from vit_pytorch.crossformer import CrossFormer  # noqa: E402

HERE = Path(__file__).parent
CROSS_VIT = {
    "image_size": 24, "num_classes": 5, "depth": 2, "sm_dim": 16, "sm_patch_size": 4, "sm_enc_heads": 2,
    "sm_enc_mlp_dim": 24, "sm_enc_dim_head": 6, "lg_dim": 20, "lg_patch_size": 12, "lg_enc_depth": 2,
    "lg_enc_heads": 3, "lg_enc_mlp_dim": 32, "lg_enc_dim_head": 8,
    "cross_attn_heads": 3, "cross_attn_dim_head": 4,
}  # fmt: skip
CROSSFORMER = {
    "dim": (32, 32, 32, 40), "depth": (1, 1, 0, 1), "local_window_size": (2, 4, 1, 1),
    "global_window_size": (4, 2, 2, 1), "cross_embed_kernel_sizes": ((4, 8), (2, 4), (4, 2), (2,)),
    "num_classes": 5, "channels": 2,
}  # fmt: skip
# name: class, fields, images' shape, whether gradients are kept
MODELS = {
    "cross_vit": (CrossViT, CROSS_VIT, (2, 24, 24, 3), False),
    "cross_vit_one_width": (
        CrossViT,
        {**CROSS_VIT, "sm_dim": 12, "lg_dim": 12, "lg_enc_depth": 1, "depth": 1, "channels": 2},
        (2, 24, 24, 2),
        True,
    ),
    "cross_vit_smaller_image": (CrossViT, {**CROSS_VIT, "depth": 1}, (2, 12, 24, 3), False),
    "crossformer": (CrossFormer, CROSSFORMER, (2, 32, 64, 2), False),
}  # fmt: skip


def loss(logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against the classes 0, 1, 2, ..."""
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))


def main() -> None:
    for seed, (name, (build, fields, shape, with_gradients)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = build(**fields).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms away from 0 and 1, or errors in them would hide
                parameter.add_(0.1 * torch.randn_like(parameter)).copy_(parameter.half())
        images = torch.randn(*shape)
        logits = model(images.permute(0, 3, 1, 2))
        arrays = {f"weights/{k}": v.numpy().astype(np.float16) for k, v in model.state_dict().items()}
        if with_gradients:
            loss(logits).backward()
            arrays |= {f"gradients/{k}": p.grad.numpy() for k, p in model.named_parameters()}
        arrays |= {
            "images": images.numpy(),
            "logits": logits.detach().numpy(),
            "fields": np.array(json.dumps(fields)),
        }
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
        print(name, (HERE / f"{name}.npz").stat().st_size)


if __name__ == "__main__":
    main()
