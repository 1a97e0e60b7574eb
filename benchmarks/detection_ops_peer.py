"""torchvision's operations of detection on request: a program of its own, for any Python with torch and torchvision.

First reads a line with the path of an npz file of inputs. Then per line the name of a case: it runs that once and
answers {"seconds"} of processor time; of "NAME FILE" it writes what the case gave to the file instead. The cases are
those of `benchmarks.detection_ops`.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torchvision import ops
from torchvision.models.detection.roi_heads import paste_masks_in_image

STRIDES = (4, 8, 16, 32)


def cases(given: dict[str, torch.Tensor]) -> dict[str, Callable[[], torch.Tensor]]:
    """What is timed, by name."""

    def align(boxes: torch.Tensor, levels: torch.Tensor, size: int) -> torch.Tensor:
        found = torch.zeros(len(boxes), given["map_0"].shape[1], size, size)
        for level, stride in enumerate(STRIDES):
            own = torch.where(levels == level)[0]
            rois = torch.cat([torch.zeros(len(own), 1), boxes[own]], 1)
            found[own] = ops.roi_align(given[f"map_{level}"], rois, size, 1 / stride, 0, True)
        return found

    def kept(name: str) -> torch.Tensor:
        return ops.nms(given[f"{name}_boxes"], given[f"{name}_scores"], 0.7)

    return {
        "iou": lambda: ops.box_iou(given["objects"], given["anchors"]),
        "giou": lambda: ops.generalized_box_iou_loss(given["a"], given["b"]),
        "nms_1000": lambda: kept("nms_1000"),
        "nms_2000": lambda: kept("nms_2000"),
        "best_100_of_5000": lambda: ops.batched_nms(
            given["many_boxes"], given["many_scores"], given["many_labels"], 0.5
        )[:100],
        "roi_align_7": lambda: align(given["roi_7"], given["levels_7"], 7),
        "roi_align_14": lambda: align(given["roi_14"], given["levels_14"], 14),
        "paste": lambda: paste_masks_in_image(given["masks"][:, None], given["mask_boxes"], (800, 1216)),
    }


def main() -> None:
    print("ready", torch.__version__, torchvision.__version__, torch.get_num_threads(), flush=True)
    with np.load(sys.stdin.readline().strip()) as file:
        given = {name: torch.from_numpy(file[name]) for name in file.files}
    given |= {name: x.permute(0, 3, 1, 2).contiguous() for name, x in given.items() if name.startswith("map_")}
    known = cases(given)
    with torch.no_grad():
        for line in sys.stdin:
            name, *file = line.split()
            began = time.process_time()
            found = known[name]()
            seconds = time.process_time() - began
            if file:
                np.save(file[0], found.numpy())
            print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
