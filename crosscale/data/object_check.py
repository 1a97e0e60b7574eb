"""What is wrong with pictures and their objects, what they are like, and some of them drawn."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from crosscale.data.box_drawing import class_colours, draw_boxes
from crosscale.data.box_transforms import scaled
from crosscale.data.coco_masks import bitmap
from crosscale.data.decode import BadImage, decode
from crosscale.data.drawing import LARGEST, enlargement
from crosscale.data.mask_meaning import spread
from crosscale.data.object_source import ObjectSource

AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}  # pixels, as COCO has them


@dataclass(frozen=True)
class ObjectCheck:
    """What a look at every picture and object found.

    Attributes:
      pictures: how many were looked at.
      sizes: (N, 2) int32, height and width of those that can be used.
      areas: COCO's name -> objects of that area, crowds left out.
      problems: a line for each annotation or picture that is not as it should be.
    """

    pictures: int
    sizes: np.ndarray
    areas: Mapping[str, int]
    problems: tuple[str, ...]


class _Seen(NamedTuple):
    size: tuple[int, int] | None
    areas: np.ndarray
    problems: tuple[str, ...]


def check_objects(
    sources: Mapping[str, ObjectSource], progress: Callable[[int, int], None] = lambda done, total: None
) -> ObjectCheck:
    """Decodes every picture and reads every object.

    Args:
      sources: the parts, opened with `checked=0`.
      progress: told (pictures done, all pictures).
    """
    problems: list[str] = []
    for source in sources.values():
        problems += [*source.annotated.refused, *source.annotated.faults()]
    positions = [(source, index) for source in sources.values() for index in range(len(source))]
    seen: list[_Seen] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # decoding frees the interpreter
        for one in pool.map(lambda pair: _look(*pair), positions):
            seen.append(one)
            progress(len(seen), len(positions))
    for one in seen:
        problems += one.problems
    areas = np.concatenate([np.zeros(0), *(one.areas for one in seen)])
    return ObjectCheck(
        pictures=len(seen),
        sizes=np.array([one.size for one in seen if one.size], np.int32).reshape(-1, 2),
        areas={name: int(((areas >= least) & (areas < most)).sum()) for name, (least, most) in AREAS.items()},
        problems=tuple(dict.fromkeys(problems)),  # parts of one file give the same lines
    )


def drawn_objects(sources: Mapping[str, ObjectSource], count: int) -> Iterator[tuple[str, Image.Image]]:
    """Some pictures with their boxes and masks, spread over those with objects: (the part and its id, the picture).

    Training pictures come first; what cannot be decoded is passed over.

    Args:
      count: how many at most.
    """
    left = count
    for part, source in sources.items():
        with_objects = np.flatnonzero(source.counts)
        for place in spread(len(with_objects), left):
            index = int(with_objects[place])
            try:
                yield f"{part}/{source.record_id(index)}", drawn(source, index)
            except BadImage:
                continue
            left -= 1


def drawn(source: ObjectSource, index: int) -> Image.Image:
    """One picture with its objects, crowds in broken lines. Raises BadImage.

    A small picture is enlarged by a whole factor, pixel by pixel, so that its labels do not hide it, and a large one is
    made smaller.
    """
    record = source[index]
    picture = decode(record.image, 3, record.id)
    objects = record.target
    size = (picture.height, picture.width)
    factor = min(1.0, LARGEST / max(size)) if max(size) > LARGEST else enlargement(size)
    shown = (max(1, round(size[1] * factor)), max(1, round(size[0] * factor)))
    filter_ = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR
    masks = None
    if objects.masks is not None:
        try:
            bitmaps = [Image.fromarray(bitmap(mask, size)) for mask in objects.masks]
        except ValueError as error:
            raise BadImage(record.id, f"a mask is damaged ({error})") from None
        masks = [np.asarray(one.resize(shown, Image.Resampling.NEAREST)) for one in bitmaps]
    told = zip(objects.labels.tolist(), objects.crowd.tolist(), strict=True)
    texts = [source.classes[label] + (" (crowd)" if is_crowd else "") for label, is_crowd in told]
    palette = class_colours(len(source.classes))
    colours = [palette[label] for label in objects.labels]
    boxes = scaled(objects.boxes, size, (shown[1], shown[0]))
    return draw_boxes(picture.resize(shown, filter_), boxes, texts, colours, objects.crowd.tolist(), masks)


def _look(source: ObjectSource, index: int) -> _Seen:
    try:
        record = source[index]
        decode(record.image, 3, record.id)
    except BadImage as error:
        return _Seen(None, np.zeros(0), (str(error),))
    size = source.size(index)
    objects = record.target
    return _Seen(size, objects.areas[~objects.crowd], tuple(_damaged(source, index, size)))


def _damaged(source: ObjectSource, index: int, size: tuple[int, int]) -> Iterator[str]:
    """A line for each mask whose run lengths are damaged, or of another size."""
    table = source.annotated.table
    if table.masks is None:
        return
    for row in range(int(table.starts[index]), int(table.starts[index + 1])):
        mask = table.mask(row, size)
        if isinstance(mask, dict):
            try:
                bitmap(mask, size)
            except ValueError as error:
                reason = " ".join(str(error).split())
                yield f"{source.annotated.entry(index, row)}: its mask is damaged ({reason}); draw it anew"
