"""How a detector is measured: its boxes against the true ones of each picture, read by COCO's evaluation at the end."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array
from crosscale.data.objects import Objects
from crosscale.tasks.detection.evaluation import (
    Evaluation,
    coco_found,
    coco_found_masks,
    coco_truth,
    evaluate_boxes,
    evaluate_masks,
)
from crosscale.tasks.metric import DeviceBatch, Metric, State

SCORE, LABEL, PLAIN = 4, 5, 6  # columns of a packed box: its corners, its score, its label; what follows is its mask

Rows = Mapping[str, np.ndarray]
Target = Callable[[int, tuple[int, int]], Objects]


class AveragePrecision(Metric):
    """COCO's average precision and recall over boxes, from rows of all pictures: no sum can express a ranking."""

    collects = True
    targets = ()  # the rows hold what is needed of them

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def init(self) -> State:
        """ "boxes": how many were found."""
        return {"boxes": np.float32(0)}

    def update(self, state: State, outputs: Any, batch: DeviceBatch) -> State:
        """
        Args:
          outputs: (B, K, 6) packed boxes, corners as shares of the pictures' sides.
          batch: "weight" (B,).
        """
        real = (outputs[..., SCORE] > 0) & (batch["weight"] > 0)[:, None]
        return {"boxes": state["boxes"] + real.sum().astype(jnp.float32)}

    def collect(self, outputs: Any, batch: DeviceBatch) -> dict[str, Array]:
        """Each picture's boxes, found and true, in its own pixels.

        Args:
          outputs: as in `update`.
          batch: "boxes" (B, M, 4), "labels", "crowd" and "areas" (B, M) of the pictures as they came, "size" and
            "original" (B, 2): height and width as fed without what fills up, and as they came.
        """
        return {
            "boxes": outputs[..., :SCORE] * corners(batch["original"]),
            "scores": outputs[..., SCORE],
            "labels": jnp.where(outputs[..., SCORE] > 0, outputs[..., LABEL], 0).astype(jnp.int32),
            "true_boxes": batch["boxes"],
            "true_labels": batch["labels"],
            "true_crowd": batch["crowd"],
            "true_areas": batch["areas"],
            "fed": batch["size"],
            "original": batch["original"],
        }

    def compute(self, state: State, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """COCO's twelve numbers by name, and each class's "ap/<name>"."""
        return self._named(evaluate_boxes(*as_coco(rows, self._names)))

    def _named(self, found: Evaluation) -> dict[str, float]:
        classes = zip(self._names, found.per_class, strict=True)
        return {**found.numbers, **{f"ap/{name}": float(value) for name, value in classes}}


class MaskAveragePrecision(AveragePrecision):
    """The same of boxes and of masks, whose names begin with "mask_".

    True masks do not travel in batches: they are read from the source at the end.
    """

    def __init__(self, names: Sequence[str], target: Target | None) -> None:
        """
        Args:
          target: position in the source, height and width -> the picture's objects with their masks; None where nothing
            will be computed.
        """
        super().__init__(names)
        self._target = target

    def collect(self, outputs: Any, batch: DeviceBatch) -> dict[str, Array]:
        """With each box's mask.

        Args:
          outputs: (B, K, 6 + m * m), a mask's probabilities behind the label.
          batch: see `AveragePrecision.collect`.
        """
        masks = packed_masks(outputs).astype(jnp.float16)  # 157 kB for 100 of 28 x 28
        return {**super().collect(outputs, batch), "masks": masks}

    def compute(self, state: State, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The numbers of boxes, and of masks "mask_map" and so on, "mask_ap/<name>" of each class among them."""
        assert self._target is not None, "not told which examples are measured (Task.measuring)"
        masks = self._named(evaluate_masks(*masks_as_coco(rows, self._names, self._target)))
        return {**super().compute(state, rows), **{f"mask_{name}": value for name, value in masks.items()}}


def packed_masks(packed: Any) -> Any:
    """(..., 6 + m * m) packed boxes -> (..., m, m), their masks' probabilities on a grid over the box."""
    said = packed[..., PLAIN:]
    side = math.isqrt(said.shape[-1])
    return said.reshape(*said.shape[:-1], side, side)


def corners(sizes: Any) -> Any:
    """(B, 2) heights and widths -> (B, 1, 4) width, height, width, height: what corners as shares are multiplied by."""
    return sizes[:, None, np.array([1, 0, 1, 0])]


def as_coco(rows: Rows, names: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The metric's rows as COCO's truth and results, of boxes."""
    return coco_truth(**_true(rows), classes=names), coco_found(rows["boxes"], rows["scores"], rows["labels"])


def masks_as_coco(rows: Rows, names: Sequence[str], target: Target) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same of masks; see `MaskAveragePrecision`."""
    sizes = rows["original"]
    masks = [
        target(int(place), (int(height), int(width))).masks or ()
        for place, (height, width) in zip(rows["index"], sizes, strict=True)
    ]
    truth = coco_truth(**_true(rows), classes=names, masks=masks)
    return truth, coco_found_masks(rows["masks"], rows["boxes"], rows["scores"], rows["labels"], sizes)


def _true(rows: Rows) -> dict[str, Any]:
    true = {name: rows[f"true_{name}"] for name in ("boxes", "labels", "crowd", "areas")}
    return {**true, "sizes": rows["original"]}
