"""Writes the golden files beside this one from the reference's recorded inputs and outputs.

python -m tests.golden.detection.make_goldens FOLDER

FOLDER holds what mmcv-full 1.6.2, mmdet 2.26.0 and torch 2.12.1 answered: `ops.safetensors`.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent
PARTS = ("anchors", "assign", "coder", "iou", "levels", "mask_target", "nms", "paste", "roi")


def main(folder: Path) -> None:
    kept = {
        name: values for name, values in load_file(folder / "ops.safetensors").items() if name.split("/")[0] in PARTS
    }
    np.savez_compressed(HERE / "operations.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
