"""How a segmentation is measured: overlaps of true and predicted pixels, counted at the masks' own resolution."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.contracts import Array
from crosscale.tasks.metric import DeviceBatch, Metric, State
from crosscale.tasks.segmentation.labels import label_maps
from crosscale.tasks.segmentation.losses import pixel_losses


class Overlaps(Metric):
    """Mean intersection over union and pixel accuracy, from one confusion matrix over all pixels that count.

    Sums run over the whole data set, not over pictures (mmsegmentation's `total_intersect_and_union`). A class that is
    neither true nor predicted anywhere is left out of the means; one that is never true but predicted has an
    intersection over union of 0.
    """

    targets = ()  # masks of several shapes, which no report reads from here

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def init(self) -> State:
        """ "confusion" (classes, classes + 1): rows are the truth, columns what was predicted, the last column pixels
        without an answer. "loss" and "cells": the cross-entropy at the cells' centres, and how many count.
        """
        classes = len(self._names)
        return {
            "confusion": np.zeros((classes, classes + 1), np.int32),
            "loss": np.float32(0),
            "cells": np.float32(0),
        }

    def update(self, state: State, outputs: Any, batch: DeviceBatch) -> State:
        """
        Args:
          outputs: (B, h, w, classes) logits of the cells.
          batch: "image" as it was fed, "mask" (B, *canvas) with 255 for what does not count, "size" (B, 2), "weight".
        """
        return self.update_and_collect(state, outputs, batch)[0]

    def collect(self, outputs: Any, batch: DeviceBatch) -> dict[str, Array]:
        """ "intersect", "true" and "predicted", each (B, classes): pixels of a picture."""
        return self.update_and_collect(self.init(), outputs, batch)[1]

    def update_and_collect(self, state: State, outputs: Any, batch: DeviceBatch) -> tuple[State, dict[str, Array]]:
        """Both from one map of labels."""
        counts, loss, cells = self._counted(outputs, batch)
        classes = len(self._names)
        rows = {
            "intersect": jnp.diagonal(counts[..., :classes], axis1=1, axis2=2),
            "true": counts.sum(2),
            "predicted": counts[..., :classes].sum(1),
        }
        return {
            "confusion": state["confusion"] + counts.sum(0),
            "loss": state["loss"] + loss,
            "cells": state["cells"] + cells,
        }, rows

    def _counted(self, outputs: Array, batch: DeviceBatch) -> tuple[Array, Array, Array]:
        mask, weight = batch["mask"], batch["weight"]
        classes, network = len(self._names), batch["image"].shape[1:3]
        sizes = jnp.maximum(batch["size"], 1)  # of padding it is 0
        labels = label_maps(outputs, sizes, network=network, canvas=mask.shape[1:3])
        real = (mask < classes) & (weight > 0)[:, None, None]
        place = mask.astype(jnp.int32) * (classes + 1) + jnp.minimum(labels.astype(jnp.int32), classes)

        def count(places: Array, ones: Array) -> Array:
            return jnp.zeros(classes * (classes + 1), jnp.int32).at[places.ravel()].add(ones.ravel())

        counts = jax.vmap(count)(jnp.where(real, place, 0), real.astype(jnp.int32))
        shaped = counts.reshape(-1, classes, classes + 1)
        at_cells = _under_cells(mask, sizes, (outputs.shape[1], outputs.shape[2]))
        counts_cells = (at_cells < classes) & (weight > 0)[:, None, None]
        losses = jnp.where(counts_cells, pixel_losses(outputs, at_cells), 0.0)
        return shaped, losses.sum(), counts_cells.sum().astype(jnp.float32)

    def compute(self, state: State, rows: Mapping[str, np.ndarray]) -> dict[str, float]:
        """ "miou", "macc" (mean accuracy over the true classes), "aacc" (share of pixels), "loss", and each class's
        "iou/<name>"."""
        counts = np.asarray(state["confusion"], np.float64)
        iou, accuracy = overlap(counts)
        total = counts.sum()
        cells = float(state["cells"])
        return {
            "miou": _mean(iou),
            "macc": _mean(accuracy),
            "aacc": float(counts.diagonal().sum() / total) if total else float("nan"),
            "loss": float(state["loss"]) / cells if cells else float("nan"),
            **{f"iou/{name}": float(value) for name, value in zip(self._names, iou, strict=True)},
        }


def overlap(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union and accuracy of each class, NaN where it has none; from (classes, classes + 1) counts."""
    classes = len(confusion)
    both, true = confusion.diagonal().astype(np.float64), confusion.sum(1)
    return shares(both, true, confusion[:, :classes].sum(0))


def shares(both: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union and accuracy from pixels of both, of the truth and predicted; NaN where none are."""
    either = true + predicted - both
    iou = np.where(either > 0, both / np.maximum(either, 1), np.nan)
    return iou, np.where(true > 0, both / np.maximum(true, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _under_cells(mask: Array, sizes: Array, cells: tuple[int, int]) -> Array:
    """(B, h, w): the label under each cell's centre."""

    def one(mask: Array, size: tuple[Array, Array]) -> Array:
        rows, columns = (
            jnp.minimum(((jnp.arange(count) + 0.5) * (side / count)).astype(jnp.int32), side - 1)
            for count, side in zip(cells, size, strict=True)
        )
        return mask[rows[:, None], columns]

    labels: Array = jax.vmap(lambda m, s: one(m, (s[0], s[1])))(mask, sizes)
    return labels
