"""Which pictures and masks of a folder belong together: the layouts of segmentation, each recognised by its names.

The same name without its extension pairs a picture with its mask.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosscale.data.mask_sets import ADE20K, CITYSCAPES, VOC, KnownSet
from crosscale.data.names import SPLITS, say_passed_over, what_instead
from crosscale.data.once import shared
from crosscale.data.scan import scan, subfolders
from crosscale.data.strings import Strings
from crosscale.data.text_lists import read_lines
from crosscale.errors import RequestError

PICTURES = ("images", "image", "imgs", "img", "img_dir", "pictures", "photos")
MASKS = ("masks", "mask", "annotations", "annotation", "ann_dir", "labels", "label", "segmentations", "gt")
SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_gt")  # of masks' names, where all have the same

_ADE20K_FOLDERS = {f"{base}/{split}" for base in ("images", "annotations") for split in ("training", "validation")}

KNOWN = (
    "images/{train,val} with masks/{train,val} or annotations/{train,val}, images/ with masks/, {train,val}/images "
    "with {train,val}/masks, or the folders of ADE20K, Cityscapes or Pascal VOC"
)


@dataclass(frozen=True)
class Pairs:
    """Pictures and their masks, as paths relative to the root.

    Attributes:
      without: what has no counterpart, a line each.
    """

    pictures: Strings
    masks: Strings
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A folder of pictures and masks.

    Attributes:
      root: what paths are relative to.
      name: of the layout, for people.
      parts: "train" and "val", or "all" where the data comes as one part.
      known: the public set that it is.
      label_ids: the masks are Cityscapes' *_labelIds.png.
      note: what else there is to say about it.
    """

    root: Path
    name: str
    parts: Mapping[str, Pairs] = field(default_factory=dict)
    known: KnownSet | None = None
    label_ids: bool = False
    note: str = ""


def is_mask_folder(place: str | Path) -> bool:
    """Whether a folder is one of pictures and masks, by the names of what it holds."""
    root = Path(place).expanduser()
    return root.is_dir() and bool(_kind(root))


@shared
def find_layout(root: Path) -> Layout:
    """Recognises a folder's layout and pairs its pictures with its masks.

    Raises:
      RequestError: there is no such folder, its layout is not one of those known, or it holds no pair.
    """
    if not root.is_dir():
        raise RequestError(f"{root}: {what_instead(root)}; give one with {KNOWN}")
    readers = {"cityscapes": _cityscapes, "voc": _voc, "folders": _folders, "splits": _split_first}
    kind = _kind(root)
    if not kind:
        raise RequestError(f"{root}: no pictures with masks are recognised{_below(root)}; give a folder with {KNOWN}")
    layout = readers[kind](root)
    for split, pairs in layout.parts.items():
        if not len(pairs.pictures):
            lonely = f" ({pairs.without[0]})" if pairs.without else ""
            part = "" if split == "all" else f"{split}: "
            coco = "; COCO's .json is not read for segmentation" if any(root.glob("annotations/*.json")) else ""
            raise RequestError(f"{root}: {part}no picture has a mask of its name{lonely}{coco}")
    return layout


def _kind(root: Path) -> str:
    folders = {name.casefold() for name in subfolders(root)}
    if {"leftimg8bit", "gtfine"} <= folders:
        return "cityscapes"
    if {"jpegimages", "segmentationclass"} <= folders:
        return "voc"
    if folders & set(PICTURES) and folders & set(MASKS):
        return "folders"
    splits = [name for name in folders if name in SPLITS["train"]]
    return "splits" if splits and _kind(root / _spelt(root, splits)) == "folders" else ""


def _below(root: Path) -> str:
    """A hint where the folder meant lies one or two levels below."""
    for folder in subfolders(root)[:20]:
        for inner in (folder, *(f"{folder}/{name}" for name in subfolders(root / folder)[:20])):
            if _kind(root / inner):
                return f", but {root / inner} holds some"
    return ""


def _spelt(root: Path, names: Sequence[str]) -> str:
    """The folder that has the first of some names, in whatever case; "" for none."""
    there = {name.casefold(): name for name in reversed(subfolders(root))}
    return next((there[name.casefold()] for name in names if name.casefold() in there), "")


def _splits(root: Path, folder: str) -> dict[str, str]:
    """Split -> its folder in root / folder, by every name that splits go by."""
    named = {split: _spelt(root / folder, words) for split, words in SPLITS.items()}
    return {split: f"{folder}/{name}" for split, name in named.items() if name}


def _folders(root: Path) -> Layout:
    """Pictures and masks side by side, each with folders of splits or without."""
    pictures, masks = _spelt(root, PICTURES), _spelt(root, MASKS)
    of_pictures, of_masks = _splits(root, pictures), _splits(root, masks)
    name = f"{pictures}/ and {masks}/"
    if not of_pictures and not of_masks:
        return Layout(root, name, {"all": pair(root, pictures, masks)})
    common = {split: (of_pictures[split], of_masks[split]) for split in of_pictures if split in of_masks}
    if "train" not in common:
        every = ", ".join([*of_pictures.values(), *of_masks.values()])
        raise RequestError(f"{root}: has {every}, so there is nothing to train on; both need a folder train")
    held_out = "val" if "val" in common else "test" if "test" in common else ""
    if not held_out and ("val" in of_pictures or "val" in of_masks):
        lonely, other = (of_pictures, masks) if "val" in of_pictures else (of_masks, pictures)
        raise RequestError(f"{root}: {lonely['val']} has no counterpart in {other}/")
    if not held_out:
        return Layout(root, f"{name}, train alone", {"all": pair(root, *common["train"])})
    parts = {"train": pair(root, *common["train"]), "val": pair(root, *common[held_out])}
    if {*common["train"], *common[held_out]} != _ADE20K_FOLDERS:
        return Layout(root, name, parts)
    # The folders' names alone may be anyone's.
    first = os.path.basename(parts["train"].pictures[0]) if parts["train"].pictures else ""
    if first.startswith("ADE_") or (root / "objectInfo150.txt").is_file():
        return Layout(root, ADE20K.name, parts, ADE20K)
    note = f"the folders have {ADE20K.name}'s names but the files ({first}) have not: read as your own data"
    return Layout(root, name, parts, note=note)


def _split_first(root: Path) -> Layout:
    """train/images with train/masks, val/images with val/masks."""
    parts = {}
    for split, words in SPLITS.items():
        folder = _spelt(root, words)
        pictures, masks = (_spelt(root / folder, names) if folder else "" for names in (PICTURES, MASKS))
        if pictures and masks:
            parts[split] = pair(root, f"{folder}/{pictures}", f"{folder}/{masks}")
    held_out = next((parts[split] for split in ("val", "test") if split in parts), None)
    if held_out is None:
        return Layout(root, "train/ alone", {"all": parts["train"]})
    return Layout(root, "folders of splits", {"train": parts["train"], "val": held_out})


def _cityscapes(root: Path) -> Layout:
    pictures, masks = _spelt(root, ["leftImg8bit"]), _spelt(root, ["gtFine"])
    splits = [split for split in ("train", "val") if all((root / base / split).is_dir() for base in (pictures, masks))]
    if len(splits) < 2:
        raise RequestError(f"{root}: Cityscapes needs the folders train and val in {pictures}/ and in {masks}/")
    of_masks = {split: [*scan(root, [f"{masks}/{split}"]).paths] for split in splits}
    ids = not any(path.endswith("_labelTrainIds.png") for paths in of_masks.values() for path in paths)
    ending = "_gtFine_labelIds.png" if ids else "_gtFine_labelTrainIds.png"
    parts = {}
    for split, paths in of_masks.items():
        there = _named_by(scan(root, [f"{pictures}/{split}"]).paths, pictures, "_leftImg8bit.png")
        parts[split] = _joined(there, _named_by(paths, masks, ending), [])
    name = f"{CITYSCAPES.name}, {'labelIds, of which 19 are learnt' if ids else 'labelTrainIds'}"
    return Layout(root, name, parts, CITYSCAPES, label_ids=ids)


def _named_by(paths: Iterable[str], folder: str, ending: str) -> dict[str, str]:
    """Path below the folder without the ending -> path, of those that end so."""
    return {path.removeprefix(f"{folder}/").removesuffix(ending): path for path in paths if path.endswith(ending)}


def _voc(root: Path) -> Layout:
    pictures, masks = _spelt(root, ["JPEGImages"]), _spelt(root, ["SegmentationClass"])
    there, twice = _by_name(scan(root, [pictures]).paths, pictures)
    found, more = _by_name(scan(root, [masks]).paths, masks)
    lists = {split: root / "ImageSets" / "Segmentation" / f"{split}.txt" for split in ("train", "val")}
    if not all(file.is_file() for file in lists.values()):
        # Other programs write these folders too, for the user's own classes.
        there = {name: path for name, path in there.items() if name in found}
        return Layout(root, f"{pictures}/ and {masks}/", {"all": _joined(there, found, [*twice, *more])})
    parts = {}
    for split, file in lists.items():
        names = [line for line in read_lines(file) if line]
        missing = [
            f"ImageSets/Segmentation/{split}.txt: {name} has no picture in {pictures}/"
            for name in names
            if name not in there
        ]
        listed = {name: there[name] for name in names if name in there}
        parts[split] = _joined(listed, {name: found[name] for name in listed if name in found}, missing)
    return Layout(root, VOC.name, parts, VOC)


def pair(root: Path, pictures: str, masks: str) -> Pairs:
    """Pairs the pictures below one folder with the masks below another, by their paths without the extension."""
    scanned = {folder: scan(root, [folder]) for folder in (pictures, masks)}
    for folder, listing in scanned.items():
        say_passed_over(root / folder, listing.passed_over)
    there, twice = _by_name(scanned[pictures].paths, pictures)
    found, more = _by_name(scanned[masks].paths, masks)
    if not there.keys() & found.keys():
        for suffix in SUFFIXES:
            if all(name.endswith(suffix) for name in found):
                found = {name.removesuffix(suffix): path for name, path in found.items()}
    return _joined(there, found, [*twice, *more])


def _by_name(paths: Strings, folder: str) -> tuple[dict[str, str], list[str]]:
    """Path below the folder without its extension -> path; and a line for each that another one has too."""
    found: dict[str, str] = {}
    twice = []
    for path in paths:
        # Names that were written on another system may spell accents in another way.
        name = unicodedata.normalize("NFC", os.path.splitext(path.removeprefix(f"{folder}/"))[0])
        if name in found:
            twice.append(f"{path}: has the name of {found[name]}; keep one of them")
        else:
            found[name] = path
    return found, twice


def _joined(pictures: Mapping[str, str], masks: Mapping[str, str], without: Sequence[str]) -> Pairs:
    both = [name for name in pictures if name in masks]
    alone = [f"{path}: a picture without a mask" for name, path in pictures.items() if name not in masks]
    alone += [f"{path}: a mask without a picture" for name, path in masks.items() if name not in pictures]
    of_both = Strings.of([pictures[name] for name in both]), Strings.of([masks[name] for name in both])
    return Pairs(*of_both, (*without, *alone))
