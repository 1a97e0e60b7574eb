"""COCO's twelve numbers and each class's average precision, by faster-coco-eval, whose results are pycocotools'."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from crosscale.data.coco_masks import as_compressed
from crosscale.data.objects import Segmentation
from crosscale.errors import RequestError
from crosscale.tasks.detection.masks import coco_masks

# Our name -> the library's, in COCO's order.
NUMBERS = {
    "map": "AP_all",
    "ap50": "AP_50",
    "ap75": "AP_75",
    "ap_small": "AP_small",
    "ap_medium": "AP_medium",
    "ap_large": "AP_large",
    "ar1": "AR_all",
    "ar10": "AR_second",
    "ar100": "AR_third",
    "ar_small": "AR_small",
    "ar_medium": "AR_medium",
    "ar_large": "AR_large",
}
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision


class Evaluation(NamedTuple):
    """What was found, against the truth.

    Attributes:
      numbers: COCO's twelve by name (`NUMBERS`), 0..1; NaN where there is nothing to count.
      per_class: (classes,) average precision, NaN for a class without objects.
      per_class_50: likewise at an overlap of 0.5.
      precision_50: (101, classes) at an overlap of 0.5 and the recalls `RECALLS`; NaN as above.
    """

    numbers: dict[str, float]
    per_class: np.ndarray
    per_class_50: np.ndarray
    precision_50: np.ndarray


def check_library() -> None:
    """Raises RequestError where faster-coco-eval is not installed."""
    from importlib.util import find_spec

    if find_spec("faster_coco_eval") is None:
        raise RequestError("the task detection measures with faster-coco-eval; pip install 'crosscale[detect]'")


def evaluate_boxes(truth: dict[str, Any], found: Sequence[dict[str, Any]]) -> Evaluation:
    """Compares boxes as COCO does, 100 of a picture and class at most.

    Args:
      truth: as COCO's annotation files, with "images", "annotations" and "categories".
      found: as COCO's results, each with "image_id", "category_id", "bbox" (x, y, width, height) and "score".

    Raises:
      RequestError: the library is not installed.
    """
    return _evaluated(truth, found, "bbox")


def evaluate_masks(truth: dict[str, Any], found: Sequence[dict[str, Any]]) -> Evaluation:
    """Compares masks as COCO does; see `evaluate_boxes`.

    Args:
      truth: with "segmentation" in the annotations.
      found: each with "image_id", "category_id", "score" and "segmentation", compressed run lengths, and without
        "bbox", whose area would be taken for the mask's.
    """
    return _evaluated(truth, found, "segm")


def _evaluated(truth: dict[str, Any], found: Sequence[dict[str, Any]], kind: Literal["bbox", "segm"]) -> Evaluation:
    check_library()
    from faster_coco_eval import COCO, COCOeval_faster

    whole = COCO({**truth, "info": {}})
    judge = COCOeval_faster(whole, whole.loadRes(list(found)), iouType=kind, print_function=lambda *words: None)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    stats = judge.stats_as_dict
    precision = np.asarray(judge.eval["precision"], np.float64)[:, :, :, 0, 2]  # overlaps, recalls, classes
    precision = np.where(precision < 0, np.nan, precision)
    numbers = {ours: _known(stats[theirs]) for ours, theirs in NUMBERS.items()}
    return Evaluation(numbers, precision.mean((0, 1)), precision[0].mean(0), precision[0])


def _known(value: float) -> float:
    return float(value) if value >= 0 else float("nan")


def coco_truth(
    boxes: np.ndarray,
    labels: np.ndarray,
    crowd: np.ndarray,
    areas: np.ndarray,
    sizes: np.ndarray,
    classes: Sequence[str],
    masks: Sequence[Sequence[Segmentation]] | None = None,
) -> dict[str, Any]:
    """Truths of N pictures as a COCO file has them: pictures 0..N-1, classes from 1 on.

    Args:
      boxes: (N, M, 4) x0 y0 x1 y1.
      labels: (N, M), -1 where there is no object.
      crowd: (N, M) bool.
      areas: (N, M).
      sizes: (N, 2) heights and widths.
      masks: of each picture's objects, in the order of the rows.
    """
    annotations: list[dict[str, Any]] = []
    for image, place in np.argwhere(labels >= 0):
        entry = {
            "id": len(annotations) + 1,  # 0 would count as unmatched
            "image_id": int(image),
            "category_id": int(labels[image, place]) + 1,
            "bbox": _sides(boxes[image, place]),
            "area": float(areas[image, place]),
            "iscrowd": int(crowd[image, place]),
        }
        if masks is not None:
            height, width = (int(side) for side in sizes[image])
            entry["segmentation"] = as_compressed(masks[image][place], (height, width))
        annotations.append(entry)
    return {
        "images": [{"id": i, "height": int(height), "width": int(width)} for i, (height, width) in enumerate(sizes)],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        "annotations": annotations,
    }


def coco_found(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Boxes of N pictures as COCO's results; see `coco_truth`.

    Args:
      boxes: (N, K, 4) x0 y0 x1 y1.
      scores: (N, K); those that are not above 0 are no boxes.
      labels: (N, K).
    """
    return [
        {**_said(scores, labels, image, place), "bbox": _sides(boxes[image, place])}
        for image, place in np.argwhere(scores > 0)
    ]


def coco_found_masks(
    masks: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, sizes: np.ndarray
) -> list[dict[str, Any]]:
    """Masks of N pictures as COCO's results; see `coco_found`.

    Args:
      masks: (N, K, m, m) probabilities on a grid over each box.
      sizes: (N, 2) heights and widths.
    """
    found = []
    for image, place in np.argwhere(scores > 0):
        size = int(sizes[image][0]), int(sizes[image][1])
        (mask,) = coco_masks([masks[image, place]], [boxes[image, place]], size)
        found.append({**_said(scores, labels, image, place), "segmentation": mask})
    return found


def _said(scores: np.ndarray, labels: np.ndarray, image: int, place: int) -> dict[str, Any]:
    label, score = int(labels[image, place]), float(scores[image, place])
    return {"image_id": int(image), "category_id": label + 1, "score": score}


def _sides(box: np.ndarray) -> list[float]:
    """x0 y0 x1 y1 -> x, y, width, height."""
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, x1 - x0, y1 - y0]
