"""Copies what the reference made out of a folder of its outputs; weights and inputs that follow a rule are left out.

python -m tests.golden.segmentation.make_goldens FOLDER

The outputs are of mmsegmentation 0.29.1 and mmcv-full 1.6.2 with the released segmentation backbones, float32 on a
processor, and of narrow models, with weights by rule: `segmentation_seeded.py` has both. `blocks` are of the branch
"crossformer" of the released code, whose long-distance groups span the whole map; the others are of its main branch.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

HERE = Path(__file__).parent
CLASSIFIERS = ("decode_head.conv_seg", "auxiliary_head.conv_seg")  # the only weights that follow no rule


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The metadata and the tensors of a file."""
    with safe_open(path, "numpy") as file:
        return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def main(folder: Path) -> None:
    for name in ("semfpn", "upernet"):
        outputs = read(folder / f"{name}_224.safetensors")[1]
        outputs.pop("probabilities")  # of the evaluation, and no more than the logits
        weights = read(folder / f"{name}_weights.safetensors")[1]
        own = {f"weights/{key}": value for key, value in weights.items() if key.startswith(CLASSIFIERS)}
        np.savez_compressed(HERE / f"{name}_224.npz", **outputs, **own)
    backbone = read(folder / "backbone_224.safetensors")[1]
    maps = {key: value[..., :: 2 if key == "map_0" else 1] for key, value in backbone.items() if key != "image"}
    np.savez_compressed(HERE / "backbone_224.npz", image=backbone["image"], **maps)
    meta, train = read(folder / "semfpn_train.safetensors")
    np.savez_compressed(HERE / "semfpn_train.npz", names=np.array(json.loads(meta["names"])), **train)
    meta, blocks = read(folder / "blocks_v1.safetensors")
    found = {key[:-2]: value[..., ::4] for key, value in blocks.items() if key.endswith("/y")}
    np.savez_compressed(HERE / "blocks.npz", meta=np.array(meta["cases"]), **found)
    operations = read(folder / "ops.safetensors")[1]
    kept = {key: value for key, value in operations.items() if key.startswith(("pool/", "resize/"))}
    np.savez_compressed(HERE / "operations.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
