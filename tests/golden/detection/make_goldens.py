"""Writes the golden files beside this one from the reference's recorded inputs and outputs.

python -m tests.golden.detection.make_goldens FOLDER

FOLDER holds what mmcv-full 1.6.2, mmdet 2.26.0 and torch 2.12.1 answered: `ops.safetensors` of operations alone, and
`retinanet_224.safetensors` of a narrow RetinaNet on the released detection backbone, float32 on a processor, at 224
pixels, where the whole-map grouping and the one within regions are the same; `retinanet_train.safetensors` has its
losses on two pictures of different sizes, and their gradients. Weights follow
`../segmentation/segmentation_seeded.py`, but for the head's, which are kept; the picture is `backbone_224.npz`'s there.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.golden.segmentation.segmentation_seeded import weight

HERE = Path(__file__).parent
KEPT = ("neck_", "cls_", "reg_", "boxes_input_scale", "scores_input_scale", "labels_input_scale")
PARTS = ("anchors", "assign", "coder", "iou", "levels", "mask_target", "nms", "paste", "roi")


def main(folder: Path) -> None:
    kept = {
        name: values for name, values in load_file(folder / "ops.safetensors").items() if name.split("/")[0] in PARTS
    }
    np.savez_compressed(HERE / "operations.npz", **kept)
    outputs = load_file(folder / "retinanet_224.safetensors")
    wanted = {name: values for name, values in outputs.items() if name.startswith(KEPT)}
    own = load_file(folder / "retinanet_weights.safetensors")
    head = {f"weights/{name}": values for name, values in own.items() if not _by_rule(name, values)}
    np.savez_compressed(HERE / "retinanet_224.npz", **wanted, **head)
    trained = load_file(folder / "retinanet_train.safetensors")
    with safe_open(folder / "retinanet_train.safetensors", "numpy") as file:
        names = json.loads(file.metadata()["names"])
    np.savez_compressed(HERE / "retinanet_train.npz", **trained, names=np.array(names))


def _by_rule(name: str, values: np.ndarray) -> bool:
    return np.array_equal(values, weight(name, values.shape))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
