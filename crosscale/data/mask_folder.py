"""Pictures and masks as a source: each record's target is the mask as labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from crosscale.contracts import Record
from crosscale.data.class_table import find_class_table
from crosscale.data.decode import BadImage, open_image, upright_size
from crosscale.data.mask_check import check_sample
from crosscale.data.mask_layouts import Layout, find_layout, is_mask_folder
from crosscale.data.mask_meaning import Meaning, meaning_of, spread
from crosscale.data.mask_parquet import has_mask_shards, open_mask_shards
from crosscale.data.mask_read import MaskReading, Stored, read_stored
from crosscale.data.once import shared
from crosscale.data.sources import HUB, download, has_shards
from crosscale.data.split import part_of
from crosscale.data.strings import Strings
from crosscale.errors import RequestError

CHECKED = 32  # pictures and masks that are looked at before a training starts
MEASURED = 256  # pictures whose sizes tell the usual one


class PairReader(Protocol):
    """Pictures and their masks as encoded files, wherever they lie. Must be picklable."""

    def __len__(self) -> int: ...

    def names(self, index: int) -> tuple[str, str]:
        """What the picture and the mask are called."""
        ...

    def picture(self, index: int) -> bytes:
        """Raises BadImage."""
        ...

    def mask(self, index: int) -> bytes:
        """Raises BadImage."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture, from its header. Raises BadImage."""
        ...

    def masks_alone(self) -> Self:
        """The same masks, for a look at them alone."""
        ...

    def select(self, indices: np.ndarray) -> Self:
        """Some of the pairs."""
        ...


@dataclass(frozen=True)
class PairFiles:
    """Pictures and masks in files of their own, given relative to `root`."""

    root: Path
    pictures: Strings
    masks: Strings

    def __len__(self) -> int:
        return len(self.pictures)

    def names(self, index: int) -> tuple[str, str]:
        """Their paths relative to the root."""
        return self.pictures[index], self.masks[index]

    def picture(self, index: int) -> bytes:
        """The picture's file. Raises BadImage."""
        return open_image(self.root / self.pictures[index])

    def mask(self, index: int) -> bytes:
        """The mask's file. Raises BadImage."""
        return open_image(self.root / self.masks[index])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture, from its header. Raises BadImage."""
        return upright_size(self.root / self.pictures[index], self.pictures[index])

    def masks_alone(self) -> "PairFiles":
        """Itself: each file is read by itself."""
        return self

    def select(self, indices: np.ndarray) -> "PairFiles":
        """Some of the pairs."""
        chosen = ([paths[int(index)] for index in indices] for paths in (self.pictures, self.masks))
        return PairFiles(self.root, *map(Strings.of, chosen))


@dataclass(frozen=True)
class MaskSource:
    """Pictures with masks.

    A record has the picture's encoded bytes, and as its target (H, W) uint8 labels: positions in `classes`, or 255 for
    what is ignored.

    Attributes:
      pairs: the pictures and masks.
      classes: names, in label order; at most 255.
      palette: (classes, 3) uint8, the colour in which each is drawn.
      reading: what the masks' values mean.
      layout: what the data was recognised as.
      notes: lines on how the classes were found, and whether 0 is ignored.
      without: a line for each picture or mask of this part that has no counterpart.
      reduce_zero_label: whether the value 0 is ignored and classes count from 1.
    """

    pairs: PairReader
    classes: Sequence[str]
    palette: np.ndarray
    reading: MaskReading
    layout: str
    notes: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    reduce_zero_label: bool = False

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Record:
        picture = self.pairs.picture(index)
        name, _ = self.pairs.names(index)
        return Record(name, picture, self._labels(index, upright_size(picture, name)))

    def record_id(self, index: int) -> str:
        """The names of the picture and its mask."""
        return "\n".join(self.pairs.names(index))

    @property
    def blocks(self) -> np.ndarray | None:
        """Where blocks of examples that are read together begin, for an order that reads each once; None for files."""
        return getattr(self.pairs, "blocks", None)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright picture, from its header. Raises BadImage."""
        return self.pairs.size(index)

    def labels(self, index: int) -> np.ndarray:
        """(H, W) uint8, the mask alone. Raises BadImage where it has another size than its picture."""
        return self._labels(index, self.size(index))

    def _labels(self, index: int, size: tuple[int, int]) -> np.ndarray:
        name, mask_name = self.pairs.names(index)
        stored = read_stored(self.pairs.mask(index), mask_name)
        found = (stored.values.shape[0], stored.values.shape[1])
        if found != size:
            turned = "; turn the mask as the picture's EXIF orientation says" if found == size[::-1] else ""
            raise BadImage(
                mask_name,
                f"the mask has {found[1]} x {found[0]} pixels, its picture {name} has {size[1]} x {size[0]}"
                f"{turned or '; make them equal'}",
            )
        return self.reading.labels_of(stored, mask_name)

    def select(self, indices: np.ndarray) -> "MaskSource":
        """The same data with only these examples."""
        return replace(self, pairs=self.pairs.select(indices))


def usual_short_side(source: MaskSource) -> int:
    """The median of the pictures' shorter sides in pixels, over up to 256 spread over the source. Raises BadImage."""
    return int(np.median([min(source.size(index)) for index in spread(len(source), MEASURED)]))


def open_masks(
    place: str | Path,
    split: str,
    *,
    val_fraction: float,
    seed: int,
    reduce_zero_label: bool | None = None,
    classes: Sequence[str] | None = None,
    checked: int = CHECKED,
) -> MaskSource:
    """One split of a data set of pictures and masks.

    The layouts are those of `mask_layouts.KNOWN`, or parquet shards with a column of pictures and one of masks. Class
    names come from classes.csv, labelmap.txt or classes.txt beside the folders, from the layout's public
    set, or are the values 0..max that the masks hold.

    Args:
      place: a folder, or "hf:owner/name[@revision]".
      split: "train", "val", or "all" for data that comes as one part.
      val_fraction: the share that is held out, by digests of the pictures' paths, where the data comes as one part.
      seed: of that choice.
      reduce_zero_label: whether the value 0 is ignored and classes count from 1. None: yes for ADE20K, else no.
      classes: their names where neither the data nor its layout says them, such as those of a trained model.
      checked: how many pictures and masks are looked at; 0 looks at none, and lets pictures without a mask pass, for
        `check_masks` to tell.

    Raises:
      RequestError: no such layout, no pairs, a picture without a mask, or a mask that cannot be learnt from.
      WorkError: a shard is damaged, or the hub cannot be reached.
    """
    if split not in ("train", "val", "all"):
        raise RequestError(f"split={split!r}: train or val, or all for data that comes as one part")
    if not 0 <= val_fraction < 1:
        raise RequestError(f"val_fraction={val_fraction}: the share that is held out lies in 0 <= value < 1")
    root = download(str(place)) if str(place).startswith(HUB) else Path(place).expanduser()
    given = None if classes is None else tuple(classes)
    found = _recognised(root, reduce_zero_label, given, not checked)
    if split == "all" and "all" not in found.parts:
        raise RequestError(f"{root}: has two parts, so neither is all of it; say train or val")
    part = "all" if "all" in found.parts else split
    pairs, meaning = found.parts[part], found.meaning
    decided = meaning.classes, meaning.palette, meaning.reading
    without = found.without.get(part, ())
    source = MaskSource(pairs, *decided, found.layout, found.notes, without, meaning.reduce_zero_label)
    if part == "all":
        ids = [pairs.names(index)[0] for index in range(len(pairs))]
        source = part_of(source, ids, np.zeros(len(ids), np.int32), split, val_fraction, seed, str(root))
    if checked:
        _refuse_lonely(root, source)
        check_sample(source, checked)
    return source


def has_masks(place: str | Path) -> bool:
    """Whether a data set on the disc holds pictures and masks, by its folders' names or its shards' columns."""
    root = Path(place).expanduser()
    return is_mask_folder(root) or (root.is_dir() and has_shards(root, ".parquet") and has_mask_shards(root))


def _refuse_lonely(root: Path, source: MaskSource) -> None:
    if source.without:
        more = f" ({len(source.without):,} files have no counterpart)" if len(source.without) > 1 else ""
        raise RequestError(f"{root}/{source.without[0]}{more}; a mask has the name of its picture: add or remove files")


@dataclass(frozen=True)
class _Recognised:
    """What a place holds: the layout's name, lines on it, the pairs of each part, what they lack, what masks mean."""

    layout: str
    notes: tuple[str, ...]
    parts: Mapping[str, PairReader]
    without: Mapping[str, tuple[str, ...]]
    meaning: Meaning


@shared
def _recognised(
    root: Path, reduce_zero_label: bool | None, classes: tuple[str, ...] | None, lenient: bool
) -> _Recognised:
    """Both splits' masks decide together, so that one class is the same number in each."""
    parts: dict[str, PairReader] = {}
    if not is_mask_folder(root) and root.is_dir() and has_shards(root, ".parquet"):
        parts |= open_mask_shards(root)
        layout = Layout(root, "parquet shards")
    else:
        layout = find_layout(root)
        parts |= {split: PairFiles(root, pairs.pictures, pairs.masks) for split, pairs in layout.parts.items()}
    every = [part.masks_alone() for part in parts.values()]
    ends = np.cumsum([len(part) for part in every])

    def stored(index: int) -> tuple[str, Stored]:
        number = int(np.searchsorted(ends, index, side="right"))
        own = index - (int(ends[number - 1]) if number else 0)
        name = every[number].names(own)[1]
        return name, read_stored(every[number].mask(own), name)

    meaning = meaning_of(
        root,
        stored,
        int(ends[-1]),
        table=find_class_table(root),
        known=layout.known,
        label_ids=layout.label_ids,
        reduce_zero_label=reduce_zero_label,
        classes=classes,
        lenient=lenient,
    )
    notes = (*meaning.notes, *[layout.note] * bool(layout.note))
    without = {split: pairs.without for split, pairs in layout.parts.items()}
    return _Recognised(layout.name, notes, parts, without, meaning)
