"""Trains a narrow CrossViT with timm and PyTorch on the digits 0 to 4, for fine-tuning tests that need no torch.

    python tests/golden/digits/make_goldens.py     # needs the parity extra

The model is that of the recipe "smoke"; the pictures are those of its training split, so that no test sees what it
is validated on.
"""

import sys
import types
from pathlib import Path

sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from timm.models.crossvit import CrossVit  # noqa: E402

from crosscale.data import open_source  # noqa: E402

HERE = Path(__file__).parent
KNOWN = 5  # classes
EPOCHS = 80


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    source = open_source("digits", "train", val_fraction=0.2, seed=0)
    records = [record for record in map(source.__getitem__, range(len(source))) if record.target < KNOWN]
    pixels = np.stack([np.asarray(record.image, np.float32).reshape(8, 8) for record in records])
    images = torch.from_numpy((pixels / 255 - 0.3) / 0.37)[:, None]
    images = torch.nn.functional.interpolate(images, size=(16, 16), mode="bicubic", antialias=True)
    labels = torch.tensor([record.target for record in records])
    model = CrossVit(
        img_size=16,
        img_scale=(1.0, 1.0),
        patch_size=(4, 8),
        in_chans=1,
        num_classes=KNOWN,
        embed_dim=(16, 24),
        depth=((1, 1, 0),),
        num_heads=(2, 2),
        mlp_ratio=(2.0, 2.0, 1.0),
        qkv_bias=False,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(32):
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 20 == 19:
            with torch.no_grad():
                right = (model(images).argmax(1) == labels).float().mean()
            print(epoch + 1, f"loss {loss.item():.4f}", f"right {right:.4f}")
    save_file(model.state_dict(), HERE / "timm_0_to_4.safetensors")
    print((HERE / "timm_0_to_4.safetensors").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
