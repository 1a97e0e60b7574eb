"""How a detector is measured: its boxes beside the true ones of each picture, read by COCO's evaluation at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array
from crosscale.tasks.detection.evaluation import coco_found, coco_truth, evaluate_boxes
from crosscale.tasks.metric import DeviceBatch, Metric, State

SCORE, LABEL, PLAIN = 4, 5, 6  # columns of a packed box: its corners, its score, its label; what follows is its mask


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
        found = evaluate_boxes(*as_coco(rows, self._names))
        classes = zip(self._names, found.per_class, strict=True)
        return {**found.numbers, **{f"ap/{name}": float(value) for name, value in classes}}


def corners(sizes: Any) -> Any:
    """(B, 2) heights and widths -> (B, 1, 4) width, height, width, height: what corners as shares are multiplied by."""
    return sizes[:, None, np.array([1, 0, 1, 0])]


def as_coco(rows: Mapping[str, np.ndarray], names: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The metric's rows as COCO's truth and results."""
    true = (rows[name] for name in ("true_boxes", "true_labels", "true_crowd", "true_areas", "original"))
    boxes, labels, crowd, areas, sizes = true
    truth = coco_truth(boxes, labels, crowd, areas, sizes, names)
    return truth, coco_found(rows["boxes"], rows["scores"], rows["labels"])
