"""What is annotated in one picture: boxes, labels, and masks where there are some."""

from dataclasses import dataclass
from typing import Any

import numpy as np

# A mask as COCO's files hold it: a list of polygons [x, y, x, y, ...], or {"size": [height, width], "counts": ...}.
Segmentation = list[list[float]] | dict[str, Any]


@dataclass(frozen=True)
class Objects:
    """What is annotated in one picture, N objects.

    Attributes:
      boxes: (N, 4) float64, x0 y0 x1 y1 in pixels of the decoded picture (after its orientation is applied).
      labels: (N,) int64, positions in the source's `classes`.
      crowd: (N,) bool, whether a box stands for several objects that are not told apart: none is learnt of it, and
        what is found there counts neither for nor against.
      areas: (N,) float64 in pixels, COCO's `area`: of the mask where there is one, else of the box.
      masks: None, or N segmentations as COCO has them: a list of polygons, or an RLE with "size" and "counts".
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    masks: tuple[Segmentation, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)
