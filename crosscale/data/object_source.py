"""Pictures with boxes, and masks where there are some, as a source: each record's target is its `Objects`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crosscale.contracts import Record
from crosscale.data.annotated import Annotated
from crosscale.data.coco_masks import import_coco_masks
from crosscale.data.decode import BadImage, upright_size
from crosscale.data.mask_meaning import spread
from crosscale.data.object_layouts import PictureReader, read_parts
from crosscale.data.object_table import REASONS, Fault
from crosscale.data.objects import Objects
from crosscale.data.sources import HUB, download
from crosscale.data.split import part_of
from crosscale.errors import RequestError

CHECKED = 32  # pictures that are looked at before a training starts


@dataclass(frozen=True)
class ObjectSource:
    """Pictures with their objects.

    A record has the picture's encoded bytes, and as its target the `Objects` in pixels of the upright picture. What is
    to train on holds the objects that mmdetection's loader takes; what is held out holds those that COCO's evaluation
    counts, boxes without area among them.

    Attributes:
      reader: the pictures.
      annotated: their objects.
      layout: what the data was recognised as.
      learn: whether it is for training.
    """

    reader: PictureReader
    annotated: Annotated
    layout: str
    learn: bool

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Record:
        picture = self.reader.picture(index)
        name = self.annotated.pictures[index]
        size = upright_size(picture, name)
        self._check_size(index, size)
        return Record(name, picture, self.target(index, size))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in label order."""
        return self.annotated.classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """What the annotations call each class: COCO's ids, which may have gaps; else the labels."""
        return self.annotated.category_ids

    @property
    def image_ids(self) -> np.ndarray:
        """(N,) int64, as the annotations number the pictures; else from 1."""
        return self.annotated.image_ids

    @property
    def has_masks(self) -> bool:
        """Whether masks were asked for and are there."""
        return self.annotated.table.masks is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines on how the data was read and what of it is left out, for the beginning of a run's log."""
        told = told_summary(self)
        part = "to train on" if self.learn else "held out"
        return (*self.annotated.notes, *[f"{part}: {told}"] * bool(told))

    @property
    def counts(self) -> np.ndarray:
        """(N,) int64, how many objects each picture's record holds."""
        return self.annotated.table.counts(learn=self.learn)

    @property
    def most_objects(self) -> int:
        """The most objects of any picture; 0 where there are none."""
        return int(self.counts.max(initial=0))

    @property
    def class_counts(self) -> np.ndarray:
        """(classes,) int64, objects of each, crowds too."""
        table = self.annotated.table
        return np.bincount(table.labels[table.kept(learn=self.learn)], minlength=len(self.classes))

    @property
    def summary(self) -> Mapping[str, int]:
        """Reason -> how many objects it holds for; with "crowds" and "pictures without objects"."""
        table = self.annotated.table
        found = {**table.summary(), "are crowds": int(np.count_nonzero(table.crowd))}
        found["pictures without objects"] = int(np.count_nonzero(self.counts == 0))
        return {reason: count for reason, count in found.items() if count}

    def above(self, most: int) -> int:
        """How many pictures hold more objects than this."""
        return int(np.count_nonzero(self.counts > most))

    @property
    def blocks(self) -> np.ndarray | None:
        """Where blocks of examples that are read together begin, for an order that reads each once; None for files."""
        return getattr(self.reader, "blocks", None)

    def record_id(self, index: int) -> str:
        """The picture's name."""
        return self.annotated.pictures[index]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture, as the annotations say it, else from its header. Raises BadImage."""
        height, width = self.annotated.sizes[index].tolist()
        return (height, width) if height and width else self.reader.size(index)

    def target(self, index: int, size: tuple[int, int]) -> Objects:
        """The record's objects without its picture, which has this height and width."""
        return self.annotated.table.objects(index, size, learn=self.learn)

    def objects(self, index: int) -> tuple[str, tuple[int, int]]:
        """The picture's name and size, checked against the annotations. Raises BadImage."""
        size = self.reader.size(index)
        self._check_size(index, size)
        return self.annotated.pictures[index], size

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        height, width = self.annotated.sizes[index].tolist()
        if not height or not width or (height, width) == size:
            return
        if size == (width, height):
            advice = (
                "its EXIF orientation turns it, and boxes are of the upright picture; where they are, exchange the "
                "declared sides, else turn the picture for good and draw them on it"
            )
        else:
            advice = "boxes are in pixels of the declared size; give the picture as it was, or scale both"
        raise BadImage(
            self.annotated.pictures[index],
            f"has {size[1]} x {size[0]} pixels, and {self.annotated.file_of(index)} says {width} x {height}: {advice}",
        )

    def select(self, indices: np.ndarray) -> "ObjectSource":
        """The same data with only these examples."""
        return replace(self, reader=self.reader.select(indices), annotated=self.annotated.select(indices))


def open_objects(
    place: str | Path,
    split: str,
    *,
    val_fraction: float,
    seed: int,
    masks: bool | None = False,
    classes: Sequence[str] | None = None,
    checked: int = CHECKED,
) -> ObjectSource:
    """One split of a data set of pictures with boxes.

    Args:
      place: a folder of one of the layouts `object_layouts.KNOWN`, one of COCO's JSON files, or
        "hf:owner/name[@revision]".
      split: "train", "val", or "all" for data that comes as one part.
      val_fraction: the share that is held out, by digests of the pictures' names, where the data comes as one part.
      seed: of that choice.
      masks: whether masks are read; None where there are some. With masks, objects without one are not learnt.
      classes: the names to learn by, as a trained model has them; None as the data says.
      checked: how many pictures are compared with what the annotations say of them; 0 compares none, and leaves what
        cannot be used for `check_objects` to report.

    Raises:
      RequestError: no such layout, an annotation that cannot be used, or other classes held out than to train on.
      WorkError: a shard is damaged, or the hub cannot be reached.
    """
    if split not in ("train", "val", "all"):
        raise RequestError(f"split={split!r}: train or val, or all for data that comes as one part")
    if not 0 <= val_fraction < 1:
        raise RequestError(f"val_fraction={val_fraction}: the share that is held out lies in 0 <= value < 1")
    if masks:
        import_coco_masks()
    root = download(str(place)) if str(place).startswith(HUB) else Path(place).expanduser()
    layout, parts = read_parts(root, masks is not False, not checked)
    if split == "all" and "all" not in parts:
        raise RequestError(f"{root}: has two parts, so neither is all of it; say train or val")
    reader, annotated = parts["all" if "all" in parts else split]
    if classes is not None:
        annotated = annotated.with_classes(classes)
    elif "train" in parts and split == "val":
        annotated = annotated.with_classes(parts["train"][1].classes)
    if masks and annotated.table.masks is None:
        none = f"{root}: its objects have no masks; give data with segmentations, or learn boxes alone"
        raise RequestError(next(iter(annotated.refused), none))  # masks that are all refused are left out
    source = ObjectSource(reader, annotated, layout, split == "train")
    if "all" in parts:
        ids = list(annotated.pictures)
        source = part_of(source, ids, np.zeros(len(ids), np.int32), split, val_fraction, seed, str(root))
    if checked:
        _check(root, source, checked)
    return source


def told_summary(source: ObjectSource) -> str:
    """One line of what was counted; "" where there is nothing."""
    kept = "not learnt" if source.learn else "counted, as COCO's evaluation does"
    lines = []
    for reason, count in source.summary.items():
        fate = f" ({kept})" if reason in (REASONS[Fault.OUTSIDE], REASONS[Fault.EMPTY], REASONS[Fault.IGNORED]) else ""
        lines.append(f"{count:,} {reason}{fate}")
    return "; ".join(lines)


def _check(root: Path, source: ObjectSource, count: int) -> None:
    if not len(source):
        raise RequestError(f"{root}: no pictures {'to train on' if source.learn else 'are held out'}")
    if source.annotated.refused:
        lines = source.annotated.refused
        more = f" ({len(lines):,} such lines; crosscale data FOLDER --check prints them)" if len(lines) > 1 else ""
        raise RequestError(f"{lines[0]}{more}")
    if source.learn and not source.counts.any():
        raise RequestError(f"{root}: none of the {len(source):,} pictures to train on holds an object")
    for index in spread(len(source), count):
        try:
            source.objects(index)
        except BadImage as error:
            raise RequestError(f"{error}; crosscale data FOLDER --check looks at every picture") from None
