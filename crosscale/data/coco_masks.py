"""COCO's masks as bitmaps; polygons and packed run lengths by faster-coco-eval, whose answers are pycocotools' own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crosscale.data.decode import MAX_PIXELS
from crosscale.data.objects import Segmentation
from crosscale.errors import RequestError

LEAST_CORNERS = 3  # of a polygon
FARTHEST = 1_000_000  # pixels of a corner from the origin: an edge is drawn point by point, wherever it is


def bitmap(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool, the pixels of one mask.

    Polygons of fewer than three corners are left out, as they enclose nothing.

    Args:
      segmentation: a list of polygons, or a dict with "size" and "counts".
      size: height and width of the picture.

    Raises:
      RequestError: faster-coco-eval is not installed, which all but run lengths as a list need.
      ValueError: run lengths that are damaged, or of another size.
    """
    if isinstance(segmentation, dict):
        return _of_runs(segmentation["counts"], segmentation["size"], size)
    polygons = sound_polygons(segmentation)
    if not polygons:
        return np.zeros(size, bool)
    library = import_coco_masks()
    return np.asarray(library.decode(library.merge(library.frPyObjects(polygons, *size)))).astype(bool)


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A bitmap as COCO's uncompressed run lengths: down the columns, the first run of zeros.

    Args:
      mask: (height, width) bool.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def compressed(
    part: np.ndarray, size: tuple[int, int] | None = None, corner: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """A bitmap as COCO's compressed run lengths, "counts" as text.

    Args:
      part: (height, width) bool, of a picture that has no pixels of the mask elsewhere.
      size: of the picture; None: the part's.
      corner: row and column of the part's first pixel.

    Raises:
      RequestError: faster-coco-eval is not installed.
    """
    height, width = part.shape if size is None else size
    rims = np.zeros((part.shape[1], part.shape[0] + 2), bool)  # a column a row, with background at its ends
    rims[:, 1:-1] = part.T
    columns, rows = np.nonzero(rims[:, 1:] != rims[:, :-1])  # where runs begin and end, by turns
    places = (corner[1] + columns) * height + corner[0] + rows
    again = np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1  # a run that goes on at the top of the next column
    places = np.delete(places, np.concatenate([again, again + 1]))
    counts = np.diff(places, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and not counts[-1]:
        counts.pop()  # no background behind the last run
    packed = import_coco_masks().frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode()}


def as_compressed(segmentation: Segmentation, size: tuple[int, int]) -> dict[str, Any]:
    """What COCO's evaluation makes of an annotation's segmentation; without one, a mask without pixels.

    Raises RequestError and ValueError as `bitmap` does.
    """
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        counts = segmentation["counts"]
        return {"size": list(size), "counts": counts.decode() if isinstance(counts, bytes) else counts}
    return compressed(bitmap(segmentation, size))


def usable_runs(
    masks: Sequence[Segmentation | None], sizes: np.ndarray, told: Callable[[int], str]
) -> tuple[list[Segmentation | None], list[str]]:
    """The masks without the run lengths that are not of their pictures' sizes, and a line for each of these.

    Run lengths say their own size, which may be any: nothing is made of that size before it is looked at.

    Args:
      masks: polygons are taken as they are.
      sizes: (N, 2) heights and widths of the pictures, 0 where nobody says.
      told: names the object of a position.
    """
    kept, refused = list(masks), []
    for i, mask in enumerate(masks):
        if not isinstance(mask, dict):
            continue
        said, size = mask["size"], sizes[i].tolist()
        whole = all(isinstance(side, int) and side > 0 for side in said)
        if whole and (said == size if all(size) else said[0] * said[1] <= MAX_PIXELS):
            continue
        kept[i] = None
        wanted = f"[{size[0]}, {size[1]}]" if all(size) else "the picture's height and width"
        refused.append(f"{told(i)}: its run lengths say the size {str(said)[:60]}, not {wanted}; draw the mask anew")
    return kept, refused


def sound_polygons(polygons: list[list[float]]) -> list[list[float]]:
    """Those that have three corners and whole pairs of numbers that can be pixels."""
    return [
        polygon
        for polygon in polygons
        if len(polygon) >= 2 * LEAST_CORNERS and len(polygon) % 2 == 0 and (np.abs(polygon) <= FARTHEST).all()
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


def _of_runs(counts: Any, said: Any, size: tuple[int, int]) -> np.ndarray:
    if list(said) != list(size):
        raise ValueError(f"run lengths of {said[1]} x {said[0]} pixels")
    if isinstance(counts, list):
        runs = np.array(counts)
        if runs.dtype.kind != "i" or runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
            raise ValueError(f"run lengths that do not add up to {size[1]} x {size[0]} pixels")
        ones = np.arange(len(runs)) % 2 == 1
        return np.repeat(ones, runs).reshape(size, order="F")
    library = import_coco_masks()
    packed = {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}
    try:
        return np.asarray(library.decode(packed)).astype(bool)
    except (RuntimeError, TypeError) as error:  # what is no text of run lengths
        raise ValueError(f"run lengths that cannot be read ({error})") from None
