"""The objects of many pictures in columns, with what is wrong with each, and what follows from it."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from hashlib import sha256

import numpy as np

from crosscale.data.coco_masks import sound_polygons
from crosscale.data.objects import Objects, Segmentation
from crosscale.data.strings import Strings

MOST_OBJECTS = 2000  # of a picture: a batch holds as many for each

LEAST_SIDE = 1.0  # pixels of a box that is learnt


class Fault(IntFlag):
    """What is wrong with one object."""

    BEYOND = 1
    OUTSIDE = 2
    EMPTY = 4
    IGNORED = 8
    NO_MASK = 16
    POLYGON = 32
    UNUSABLE = 64


# As mmdetection's loader: none of these is learnt. COCO's evaluation counts them all the same.
UNLEARNT = Fault.OUTSIDE | Fault.EMPTY | Fault.IGNORED | Fault.UNUSABLE
REASONS = {
    Fault.BEYOND: "reach beyond their picture",
    Fault.OUTSIDE: "lie outside their picture",
    Fault.EMPTY: "are less than a pixel wide or high, or of no area",
    Fault.IGNORED: "are marked to be ignored",
    Fault.NO_MASK: "have no mask",
    Fault.POLYGON: "have polygons of fewer than three corners",
    Fault.UNUSABLE: "cannot be used",
}
REMEDIES = {
    Fault.BEYOND: "training cuts it at the picture's edge; draw it within the picture",
    Fault.OUTSIDE: "it is not learnt, and held out it counts as missed; move it into the picture or take it out",
    Fault.EMPTY: "it is not learnt, and held out it counts as missed; draw it anew or take it out",
    Fault.NO_MASK: "where masks are learnt it is left out; draw one or take it out",
    Fault.POLYGON: "such a polygon encloses nothing and is left out; draw three corners or more",
}


@dataclass(frozen=True)
class ObjectTable:
    """The T objects of N pictures, picture after picture.

    Attributes:
      boxes: (T, 4) float64, x0 y0 x1 y1 in pixels, or as shares of the picture's sides.
      labels: (T,) int64.
      crowd: (T,) bool.
      areas: (T,) float64 in pixels, or as shares of the picture's; NaN is that of the box.
      faults: (T,) uint8, `Fault`s.
      ids: (T,) int64, what each object is called in its file: an id or a line's number.
      starts: (N + 1,) int64, where each picture's objects begin.
      masks: pickled segmentations, b"" for none; None where none were read.
      shares: boxes and masks are shares of the picture's sides.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    faults: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    masks: Strings | None = None
    shares: bool = False

    def __len__(self) -> int:
        return len(self.starts) - 1

    def digest(self) -> str:
        """SHA-256, in hexadecimal digits, of the boxes, their labels and their masks."""
        columns = [self.boxes, self.labels, self.crowd, self.starts]
        columns += [] if self.masks is None else [self.masks.data, self.masks.ends]
        found = sha256()
        for column in columns:
            found.update(np.ascontiguousarray(column).tobytes())
        return found.hexdigest()

    def kept(self, *, learn: bool) -> np.ndarray:
        """(T,) bool, which objects a record holds.

        Args:
          learn: those that are learnt; else those that an evaluation counts.
        """
        without = Fault.UNUSABLE if not learn else UNLEARNT if self.masks is None else UNLEARNT | Fault.NO_MASK
        return (self.faults & int(without)) == 0

    def counts(self, *, learn: bool) -> np.ndarray:
        """(N,) int64, how many objects each picture's record holds."""
        before = np.concatenate([[0], np.cumsum(self.kept(learn=learn))])
        return np.diff(before[self.starts])

    def objects(self, index: int, size: tuple[int, int], *, learn: bool) -> Objects:
        """What is annotated in one picture.

        Args:
          size: height and width of the picture.
          learn: as in `kept`.
        """
        rows = np.arange(self.starts[index], self.starts[index + 1])
        rows = rows[self.kept_rows(rows, learn)]
        boxes = self.boxes[rows] * np.tile(size[::-1], 2) if self.shares else self.boxes[rows]
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        areas = self.areas[rows] * (np.prod(size) if self.shares else 1)
        areas = np.where(np.isnan(areas), sides.prod(1), areas)
        masks = None if self.masks is None else tuple(self.mask(int(row), size) for row in rows)
        return Objects(boxes, self.labels[rows], self.crowd[rows], areas, masks)

    def kept_rows(self, rows: np.ndarray, learn: bool) -> np.ndarray:
        """`kept` of some rows alone."""
        return replace(self, faults=self.faults[rows]).kept(learn=learn)

    def mask(self, row: int, size: tuple[int, int]) -> Segmentation:
        """One object's segmentation in pixels; no polygons where it has none."""
        assert self.masks is not None
        packed = self.masks.stored(row)
        stored: Segmentation = pickle.loads(packed) if packed else []
        if isinstance(stored, dict):
            return stored
        sound = sound_polygons(stored)
        if not self.shares:
            return sound
        return [(np.reshape(polygon, (-1, 2)) * size[::-1]).ravel().tolist() for polygon in sound]

    def select(self, indices: np.ndarray) -> "ObjectTable":
        """The objects of some pictures."""
        spans = [np.arange(self.starts[i], self.starts[i + 1]) for i in indices]
        rows = np.concatenate([np.zeros(0, np.int64), *spans])
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in ("boxes", "labels", "crowd", "areas", "faults", "ids")},
            starts=np.concatenate([[0], np.cumsum([len(span) for span in spans])]).astype(np.int64),
            masks=None if self.masks is None else Strings.of([self.masks.stored(int(row)) for row in rows]),
        )

    def relabelled(self, labels: Sequence[int]) -> "ObjectTable":
        """The same objects with another label for each."""
        new = np.append(np.asarray(labels, np.int64), -1)  # -1 stays
        return replace(self, labels=new[self.labels])

    def summary(self) -> dict[str, int]:
        """Reason -> how many objects it holds for; only what there is."""
        reasons = {fault: text for fault, text in REASONS.items() if self.masks is not None or fault not in OF_MASKS}
        found = {text: int(np.count_nonzero(self.faults & int(fault))) for fault, text in reasons.items()}
        return {text: count for text, count in found.items() if count}


OF_MASKS = (Fault.NO_MASK, Fault.POLYGON)


def make_table(
    owners: np.ndarray,
    pictures: int,
    *,
    boxes: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    crowd: np.ndarray | None = None,
    areas: np.ndarray | None = None,
    faults: np.ndarray | None = None,
    masks: Sequence[Segmentation | None] | None = None,
    shares: bool = False,
) -> ObjectTable:
    """Objects in any order as a table.

    Args:
      owners: (T,) positions of their pictures.
      pictures: how many there are.
      boxes: (T, 4), and so on as `ObjectTable` has them.
      masks: a segmentation of each, or None.
    """
    order = np.argsort(owners, kind="stable")
    count = len(owners)
    flags = np.zeros(count, np.uint8) if faults is None else faults.astype(np.uint8)
    crowds = np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool)
    texts = None
    if masks is not None:
        # A crowd's mask is not learnt, so a crowd needs none.
        told = [
            0 if is_crowd and not mask else _mask_faults(mask) for mask, is_crowd in zip(masks, crowds, strict=True)
        ]
        flags = flags | np.array(told, np.uint8).reshape(count)
        texts = Strings.of([pickle.dumps(masks[int(i)], 5) if masks[int(i)] else b"" for i in order])
    return ObjectTable(
        boxes=np.asarray(boxes, np.float64).reshape(-1, 4)[order],
        labels=np.asarray(labels, np.int64)[order],
        crowd=crowds[order],
        areas=(np.full(count, np.nan) if areas is None else np.asarray(areas, np.float64))[order],
        faults=flags[order],
        ids=np.asarray(ids, np.int64)[order],
        starts=np.searchsorted(owners[order], np.arange(pictures + 1)).astype(np.int64),
        masks=texts,
        shares=shares,
    )


def box_faults(boxes: np.ndarray, sizes: np.ndarray, *, least: float = LEAST_SIDE, slack: float = 0.5) -> np.ndarray:
    """(T,) uint8, what is wrong with boxes, by mmdetection's rules.

    Args:
      boxes: (T, 4) float64, x0 y0 x1 y1.
      sizes: (T, 2), height and width of each one's picture, in the same unit; 0 where it is not known.
      least: side of a box that is learnt.
      slack: how far a box reaches beyond its picture by rounding alone.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    limits = np.where(sizes > 0, sizes, np.inf)[:, ::-1]
    shown = np.minimum(boxes[:, 2:], limits) - np.maximum(boxes[:, :2], 0)
    empty = (sides < least).any(1) | (sides <= 0).any(1)
    outside = (shown <= 0).any(1) & ~empty
    beyond = ((boxes[:, :2] < -slack) | (boxes[:, 2:] > limits + slack)).any(1) & ~empty & ~outside
    return (empty * int(Fault.EMPTY) + outside * int(Fault.OUTSIDE) + beyond * int(Fault.BEYOND)).astype(np.uint8)


def _mask_faults(mask: Segmentation | None) -> int:
    if not mask:
        return int(Fault.NO_MASK)
    if isinstance(mask, dict):
        return 0
    sound = len(sound_polygons(mask))
    return int(Fault.POLYGON) * (sound < len(mask)) | int(Fault.NO_MASK) * (not sound)
