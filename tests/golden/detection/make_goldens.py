"""Writes the golden files beside this one from the reference's recorded inputs and outputs.

python -m tests.golden.detection.make_goldens FOLDER

FOLDER holds what mmcv-full 1.6.2, mmdet 2.26.0 and torch 2.12.1 answered: `ops.safetensors` of operations alone, and
`retinanet_224.safetensors` and `maskrcnn_224.safetensors` of a narrow RetinaNet and a narrow Mask R-CNN on the released
detection backbone, float32 on a processor, at 224 pixels, where the whole-map grouping and the one within regions are
the same; `retinanet_train.safetensors` and `maskrcnn_train_all.safetensors` of a training step on two padded pictures
with samplers that take everything, groups within regions. Weights follow `../segmentation/segmentation_seeded.py`, but
for the heads', which are kept; the picture at 224 is `backbone_224.npz`'s there. `coco_ground_truth.json` and
`coco_detections_boxes.json` are made-up boxes of a few pictures, which pycocotools 2.0.11 has compared.
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
BETWEEN = ("anchors_", "base_anchors_", "roi_", "mask_roi_")  # what the stages after them show as well
PARTS = ("anchors", "assign", "coder", "iou", "levels", "mask_target", "nms", "paste", "roi")


def main(folder: Path) -> None:
    kept = {
        name: values for name, values in load_file(folder / "ops.safetensors").items() if name.split("/")[0] in PARTS
    }
    np.savez_compressed(HERE / "operations.npz", **kept)
    outputs = load_file(folder / "retinanet_224.safetensors")
    wanted = {name: values for name, values in outputs.items() if name.startswith(KEPT)}
    np.savez_compressed(HERE / "retinanet_224.npz", **wanted, **_kept_weights(folder / "retinanet_weights.safetensors"))
    outputs = load_file(folder / "maskrcnn_224.safetensors")
    wanted = {name: values for name, values in outputs.items() if not name.startswith(BETWEEN)}
    np.savez_compressed(HERE / "maskrcnn_224.npz", **wanted, **_kept_weights(folder / "maskrcnn_weights.safetensors"))
    with safe_open(folder / "maskrcnn_train_all.safetensors", "numpy") as file:
        names = json.loads(file.metadata()["names"])
    step = load_file(folder / "maskrcnn_train_all.safetensors")  # on the same pictures as RetinaNet's
    np.savez_compressed(HERE / "maskrcnn_train.npz", names=np.array(names), **step)
    with safe_open(folder / "retinanet_train.safetensors", "numpy") as file:
        names = json.loads(file.metadata()["names"])
    np.savez_compressed(
        HERE / "retinanet_train.npz", names=np.array(names), **load_file(folder / "retinanet_train.safetensors")
    )
    truth, found = (
        json.loads((folder / f"coco_{name}.json").read_text()) for name in ("ground_truth", "detections_boxes")
    )
    plain = [{key: value for key, value in item.items() if key != "segmentation"} for item in truth["annotations"]]
    told = [{key: item[key] for key in ("image_id", "category_id", "bbox", "score")} for item in found]
    boxes = {"images": truth["images"], "categories": truth["categories"], "annotations": plain}
    text = json.dumps({"truth": boxes, "found": told}, separators=(",", ":"))
    (HERE / "coco_boxes.json").write_text(text + "\n")
    masks = {item["id"]: item["segmentation"] for item in truth["annotations"]}
    text = json.dumps({"truth": masks, "found": json.loads((folder / "coco_detections_masks.json").read_text())})
    (HERE / "coco_masks.json").write_text(text + "\n")


def _kept_weights(path: Path) -> dict[str, np.ndarray]:
    return {f"weights/{name}": values for name, values in load_file(path).items() if not _by_rule(name, values)}


def _by_rule(name: str, values: np.ndarray) -> bool:
    return np.array_equal(values, weight(name, values.shape))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
