"""COCO's annotations: a JSON file of images, categories and annotations.

What is learnt of them is what mmdetection's loader takes; what an evaluation counts is what COCO's own does.
"""

import gc
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.data.annotated import Annotated, crowded
from crosscale.data.coco_masks import bitmap, sound_polygons, usable_runs
from crosscale.data.object_table import Fault, ObjectTable, box_faults, make_table
from crosscale.data.objects import Segmentation
from crosscale.data.once import shared
from crosscale.data.strings import Strings
from crosscale.errors import RequestError

PARTS = ("images", "annotations", "categories")

_FEW = 8  # boxes: fewer allow no conclusion
_BEYOND = 0.2  # from this share of boxes beyond their pictures on, corners are suspected
_LARGEST = 1e12  # the largest number that means something
_SHOWN = 12  # category ids in a line

Entries = list[dict[str, Any]]


@shared
def read_coco(file: Path, masks: bool) -> Annotated:
    """Reads one file; its `pictures` are as it names them.

    Category ids may have gaps: labels are positions in their order.

    Args:
      masks: whether segmentations are kept, if there are any.

    Raises:
      RequestError: no JSON, not of COCO's form, or an id or name that appears twice.
    """
    # The search for cycles, which JSON has none of, takes as long as all the rest of a large file.
    was_on = gc.isenabled()
    gc.disable()
    try:
        return _read(file, masks)
    finally:
        if was_on:
            gc.enable()


def _read(file: Path, masks: bool) -> Annotated:
    where = str(file)
    whole = _parsed(file)
    images, annotations, categories = (_entries(whole, part, where) for part in PARTS)
    classes, category_ids, notes = _classes(categories, annotations, where)
    names = [_file_name(image, where) for image in images]
    sizes = np.array([[_side(image, "height"), _side(image, "width")] for image in images], np.int32).reshape(-1, 2)
    table, refused = _objects(annotations, _positions(images, where), names, sizes, category_ids, where, masks)
    read = Annotated(
        pictures=Strings.of(names),
        table=table,
        sizes=sizes,
        image_ids=_whole([image["id"] for image in images]),
        classes=classes,
        category_ids=category_ids,
        where=where,
        notes=notes,
        refused=tuple(refused),
    )
    return read.refusing(crowded(read))


def _objects(
    annotations: Entries,
    positions: Mapping[Any, int],
    names: Sequence[str],
    sizes: np.ndarray,
    category_ids: Sequence[int],
    where: str,
    masks: bool,
) -> tuple[ObjectTable, list[str]]:
    """The table, and a line for each annotation that cannot be used."""
    owners = [positions.get(_key(entry.get("image_id")), -1) for entry in annotations]
    refused = [
        f"{where}: annotation {_id(entry)} is of image {entry.get('image_id')!r}, which images does not list; list it "
        "or take the annotation out"
        for entry, owner in zip(annotations, owners, strict=True)
        if owner < 0
    ]
    annotations = [entry for entry, owner in zip(annotations, owners, strict=True) if owner >= 0]
    of = np.array([owner for owner in owners if owner >= 0], np.int64)
    refused += _doubled(annotations, [names[owner] for owner in of], where)
    told = [f"{where}: annotation {_id(entry)} of {names[owner]}" for entry, owner in zip(annotations, of, strict=True)]
    boxes, faults, more = _boxes(annotations, sizes[of], told)
    labels_of = {number: label for label, number in enumerate(category_ids)}
    labels = np.array([labels_of.get(_key(entry.get("category_id")), -1) for entry in annotations], np.int64)
    faults[labels < 0] |= int(Fault.UNUSABLE)
    refused += more
    refused += [
        f"{told[i]}: category_id {annotations[i].get('category_id')!r} is not one of the categories' ids "
        f"({_listed(category_ids)}); declare it there or correct the annotation"
        for i in np.flatnonzero(labels < 0).tolist()
    ]
    refused += _suspicious(boxes, sizes[of], faults, told)
    # Millions of corners are looked at only where they are kept, or tell an area.
    kept = [masks or not _is_number(entry.get("area")) for entry in annotations]
    segments = [
        read_segmentation(e.get("segmentation")) if is_kept else None
        for e, is_kept in zip(annotations, kept, strict=True)
    ]
    segments, more = usable_runs(segments, sizes[of], told.__getitem__)
    refused += more
    table = make_table(
        of,
        len(names),
        boxes=boxes,
        labels=labels,
        ids=_whole([entry.get("id") for entry in annotations]),
        crowd=np.array([bool(entry.get("iscrowd")) for entry in annotations], bool),
        areas=np.array([read_area(e.get("area"), s) for e, s in zip(annotations, segments, strict=True)], np.float64),
        faults=faults,
        masks=segments if masks and any(segments) else None,
    )
    return table, refused


def _doubled(annotations: Entries, pictures: Sequence[str], where: str) -> list[str]:
    """A line for each id that appears again: COCO's evaluation would take the last object for all of them."""
    first: dict[Any, int] = {}
    refused = []
    for i, number in enumerate(_key(entry.get("id")) for entry in annotations):
        if number is not None and first.setdefault(number, i) != i:
            refused.append(
                f"{where}: annotation id {number} appears twice, for objects of {pictures[first[number]]!r} and "
                f"{pictures[i]!r}; give each annotation its own"
            )
    return refused


def _boxes(annotations: Entries, sizes: np.ndarray, told: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Corners (T, 4), faults (T,), and a line for each bbox that is none."""
    refused = []
    boxes = np.zeros((len(annotations), 4))
    unusable = np.zeros(len(annotations), np.uint8)
    for i, entry in enumerate(annotations):
        box = entry.get("bbox")
        if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
            boxes[i] = box[0], box[1], box[0] + box[2], box[1] + box[3]
        else:
            unusable[i] = int(Fault.UNUSABLE)
            refused.append(
                f"{told[i]}: bbox is {json.dumps(box)[:60]}; it must be four numbers: x, y, width, height in pixels"
            )
    faults = np.where(unusable > 0, unusable, box_faults(boxes, sizes))
    without_area = np.array([_is_number(entry.get("area")) and entry["area"] <= 0 for entry in annotations], bool)
    ignored = np.array([bool(entry.get("ignore")) for entry in annotations], bool)
    faults = faults | without_area * int(Fault.EMPTY) | ignored * int(Fault.IGNORED)
    return boxes, faults.astype(np.uint8), refused


def _suspicious(boxes: np.ndarray, sizes: np.ndarray, faults: np.ndarray, told: Sequence[str]) -> list[str]:
    """A line where all boxes together look like another convention than COCO's."""
    usable = np.flatnonzero((faults & int(Fault.UNUSABLE)) == 0)
    if not usable.size:
        return []
    first, corners = told[int(usable[0])], boxes[usable]
    x0, y0, x1, y1 = corners[0].tolist()
    box = f"bbox [{x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}]"
    if corners.max() <= 1 and corners.max() > 0:
        return [
            f"{first}: {box}, like all others, lies in 0..1: shares of the picture's sides, where COCO has pixels; "
            "multiply x and width by the picture's width, y and height by its height"
        ]
    limits = np.where(sizes[usable] > 0, sizes[usable], np.inf)[:, ::-1]
    ends = corners[:, 2:] - corners[:, :2]  # if bbox were x0, y0, x1, y1
    beyond = (corners[:, 2:] > limits + 1).any(1)
    if usable.size >= _FEW and beyond.mean() >= _BEYOND and ((ends > corners[:, :2]) & (ends <= limits + 1)).all():
        return [
            f"{first}: {box}, like all others, fits as x0, y0, x1, y1, and {beyond.sum():,} of {usable.size:,} boxes "
            "reach beyond their pictures as COCO's x, y, width, height; write bbox as x0, y0, x1 - x0, y1 - y0"
        ]
    return []


def _classes(
    categories: Entries, annotations: Entries, where: str
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
    """Names in the order of their ids, the ids, and lines on them."""
    found: dict[int, str] = {}
    for entry in categories:
        number, name = entry.get("id"), entry.get("name")
        if not isinstance(number, int) or not isinstance(name, str) or not name.strip():
            raise RequestError(f"{where}: a category {json.dumps(entry)[:80]}; each has a whole number id and a name")
        if number in found:
            raise RequestError(f"{where}: category id {number} appears twice ('{found[number]}', '{name}'); renumber")
        if name.strip() in found.values():
            raise RequestError(f"{where}: two categories are called '{name}'; give them different names")
        found[number] = name.strip()
    used = {_key(entry.get("category_id")) for entry in annotations}
    notes = []
    # Roboflow adds the project's name as a category that all others belong to.
    for number, name in list(found.items()):
        others = {str(e.get("supercategory")) for e in categories if e["id"] != number}
        if len(found) > 1 and others == {name} and number not in used:
            del found[number]
            notes.append(f"the category '{name}' (id {number}) holds all others and has no object: left out")
    if not found:
        raise RequestError(f"{where}: categories is empty; list each class with an id and a name")
    ids = tuple(sorted(found))
    return tuple(found[number] for number in ids), ids, tuple(notes)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        whole = json.loads(file.read_bytes())
    except OSError as error:
        raise RequestError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError
        raise RequestError(f"{file}: no JSON, or cut short ({error}); write the file anew") from None
    if not isinstance(whole, dict):
        raise RequestError(f"{file}: a JSON {type(whole).__name__}; COCO's is an object with {', '.join(PARTS)}")
    missing = [part for part in PARTS if part not in whole]
    if missing:
        raise RequestError(f"{file}: has no {' and no '.join(missing)}; a COCO file has {', '.join(PARTS)}")
    return whole


def _entries(whole: Mapping[str, Any], part: str, where: str) -> Entries:
    entries = whole[part]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RequestError(f"{where}: {part} is no list of objects; a COCO file has {', '.join(PARTS)} as lists")
    return entries


def _positions(images: Entries, where: str) -> dict[Any, int]:
    """Image id -> position. Raises RequestError for an id that is missing or appears twice."""
    found: dict[Any, int] = {}
    for position, image in enumerate(images):
        number = _key(image.get("id"))
        if number is None:
            raise RequestError(f"{where}: image {position} of the list ({image.get('file_name')!r}) has no id")
        if number in found:
            files = " and ".join(repr(images[i].get("file_name")) for i in (found[number], position))
            raise RequestError(f"{where}: image id {number} appears twice, for {files}; give each picture its own")
        found[number] = position
    return found


def _file_name(image: Mapping[str, Any], where: str) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where}: image {image.get('id')!r} has no file_name; give the picture's")
    return name.replace("\\", "/")


def read_segmentation(found: Any) -> Segmentation | None:
    """What an annotation has as its "segmentation": polygons or run lengths; None where it is neither."""
    if isinstance(found, dict):
        size = found.get("size")
        if not isinstance(found.get("counts"), (list, str)) or not isinstance(size, list) or len(size) != 2:
            return None
        return {**found, "size": [_key(side) for side in size]}
    if not isinstance(found, list):
        return None
    # What is no polygon stays as an empty one, for a check to report.
    return [polygon if _are_numbers(polygon) else [] for polygon in found] or None


def read_area(area: Any, segmentation: Segmentation | None) -> float:
    """The area that an annotation says, else that of its mask; NaN where the box's is meant."""
    return float(area) if _is_number(area) else area_of(segmentation)


def area_of(segmentation: Segmentation | None) -> float:
    """The area that polygons (in their own unit) or run lengths enclose; NaN where there is nothing or it is damaged.

    Raises RequestError where packed run lengths need a library that is not installed.
    """
    if isinstance(segmentation, dict):
        try:
            return float(np.count_nonzero(bitmap(segmentation, tuple(segmentation["size"]))))
        except ValueError:  # a check names it
            return math.nan
    sound = [np.reshape(polygon, (-1, 2)) for polygon in sound_polygons(segmentation or [])]
    areas = [abs(np.dot(p[:, 0], np.roll(p[:, 1], 1)) - np.dot(p[:, 1], np.roll(p[:, 0], 1))) / 2 for p in sound]
    return float(sum(areas)) if areas else math.nan


def _side(image: Mapping[str, Any], name: str) -> int:
    """0 where the file does not say it."""
    side: Any = image.get(name)
    return int(side) if _is_number(side) and 0 < side < 2**31 else 0


def _id(entry: Mapping[str, Any]) -> Any:
    return entry.get("id", "without an id")


def _whole(ids: Sequence[Any]) -> np.ndarray:
    """(N,) int64; the position, from 1, stands for an id that is no such number."""
    known = (_key(number) for number in ids)
    return np.array([x if isinstance(x, int) and abs(x) < 2**63 else i for i, x in enumerate(known, 1)], np.int64)


def _key(value: Any) -> Any:
    """An id that can be looked up; None for what is none. Tables write whole numbers as 3.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def _are_numbers(values: Any) -> bool:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        return False
    return isinstance(values, list) and array.ndim == 1 and array.dtype.kind in "iuf"


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:_SHOWN])) + (f", ... {ids[-1]}" if len(ids) > _SHOWN else "")
