"""Makes a narrow CrossViT with MindCV and saves it with MindSpore, for tests that need neither.

    python tests/golden/mindcv/make_goldens.py     # needs mindspore==2.10.0 and mindcv==0.3.0 (own environment)

`narrow.ckpt` is written by `mindspore.save_checkpoint`, `narrow_crc.ckpt` likewise with its checksum; `narrow.npz`
holds the same tensors as MindSpore sees them, a batch (NCHW) and the logits that MindCV computes on the CPU.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindcv.models.crossvit import VisionTransformer

HERE = Path(__file__).parent
FIELDS = {
    "img_size": [48, 32],
    "patch_size": [12, 16],
    "embed_dim": [8, 16],
    "depth": [[1, 2, 0], [1, 1, 0]],
    "num_heads": [2, 2],
    "mlp_ratio": [2.0, 1.5, 1.0],
    "num_classes": 5,
    "qkv_bias": True,
}


def main() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
    rng = np.random.default_rng(7)
    model = VisionTransformer(**FIELDS)
    model.set_train(False)
    for parameter in model.get_parameters():  # biases and norms away from 0 and 1, or errors in them would hide
        noise = 0.1 * rng.standard_normal(parameter.shape).astype(np.float32)
        parameter.set_data(ms.Tensor(parameter.asnumpy() + noise))
    images = rng.standard_normal((4, 3, 48, 48)).astype(np.float32)
    images[2:] = images[2:, :, :1, :1]  # one colour throughout: rescaling cannot change these two
    logits = model(ms.Tensor(images)).asnumpy()
    ms.save_checkpoint(model, str(HERE / "narrow.ckpt"))
    ms.save_checkpoint(model, str(HERE / "narrow_crc.ckpt"), crc_check=True)
    tensors = {f"weights/{p.name}": p.asnumpy() for p in model.get_parameters()}
    np.savez_compressed(HERE / "narrow.npz", images=images, logits=logits, **tensors)
    for name in sorted(tensors):
        print(name, tensors[name].shape)


if __name__ == "__main__":
    main()
