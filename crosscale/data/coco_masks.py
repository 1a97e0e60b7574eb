"""COCO's masks, polygons and run lengths, as bitmaps: by faster-coco-eval, whose answers are pycocotools' own."""

from typing import Any

import numpy as np

from crosscale.data.objects import Segmentation
from crosscale.errors import RequestError

LEAST_CORNERS = 3  # of a polygon


def bitmap(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool, the pixels of one mask.

    Polygons of fewer than three corners are left out, as they enclose nothing.

    Args:
      segmentation: a list of polygons, or a dict with "size" and "counts".
      size: height and width of the picture.

    Raises:
      RequestError: faster-coco-eval is not installed.
      ValueError: run lengths that are damaged, or of another size.
    """
    library = import_coco_masks()
    if isinstance(segmentation, dict):
        runs = _runs(library, segmentation)
        if tuple(runs["size"]) != tuple(size):
            raise ValueError(f"run lengths of {runs['size'][1]} x {runs['size'][0]} pixels")
    else:
        polygons = sound_polygons(segmentation)
        if not polygons:
            return np.zeros(size, bool)
        runs = library.merge(library.frPyObjects(polygons, *size))
    return np.asarray(library.decode(runs)).astype(bool)


def mask_area(segmentation: Segmentation, size: tuple[int, int]) -> float:
    """The pixels of one mask. Raises as `bitmap` does."""
    return float(np.count_nonzero(bitmap(segmentation, size)))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A bitmap as COCO's uncompressed run lengths: down the columns, the first run of zeros.

    Args:
      mask: (height, width) bool.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def sound_polygons(polygons: list[list[float]]) -> list[list[float]]:
    """Those that have three corners and whole pairs of finite numbers."""
    return [
        polygon
        for polygon in polygons
        if len(polygon) >= 2 * LEAST_CORNERS and len(polygon) % 2 == 0 and np.isfinite(polygon).all()
    ]


def import_coco_masks() -> Any:
    """faster_coco_eval's functions of masks. Raises RequestError."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise RequestError(
            "masks of objects are read with faster-coco-eval, which is not installed: pip install 'crosscale[detect]'"
        ) from None
    return mask


def _runs(library: Any, segmentation: dict[str, Any]) -> dict[str, Any]:
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return library.frPyObjects(segmentation, *segmentation["size"])
    return {"size": segmentation["size"], "counts": counts.encode() if isinstance(counts, str) else counts}
