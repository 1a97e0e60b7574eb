"""Pictures of squares and discs with their boxes, as COCO writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """A grey ground with green squares and red discs, and where they are: label and x, y, width, height."""
    picture = rng.integers(90, 150, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    found = []
    for _ in range(rng.integers(1, 4)):
        label, side = int(rng.integers(2)), int(rng.integers(20, 36))
        top, left = int(rng.integers(height - side)), int(rng.integers(width - side))
        shape = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
        if label:
            shape &= (y - top - side / 2 + 0.5) ** 2 + (x - left - side / 2 + 0.5) ** 2 < (side / 2) ** 2
        picture[shape] = ((30, 200, 60), (220, 30, 30))[label]
        found.append((label, [left, top, side, side]))
    return picture, found


def write_coco(
    root: Path,
    rng: np.random.Generator,
    sizes: dict[str, list[tuple[int, int]]],
    told: Callable[[int, list[int], tuple[int, int]], dict[str, Any]],
) -> Path:
    """Writes a folder and a file of annotations for each split, with ids of classes that have a gap; gives `root`.

    Args:
      sizes: height and width of each picture, by split.
      told: what an annotation has besides its box, of a label, a box and its picture's size.
    """
    for split, shapes in sizes.items():
        (root / split).mkdir()
        images, annotations = [], []
        for number, size in enumerate(shapes, 1):
            picture, objects = scene(rng, *size)
            name = f"{number:012d}.png"
            Image.fromarray(picture).save(root / split / name)
            images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
            for label, box in objects:
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": (3, 90)[label], "bbox": box}
                annotations.append({**entry, "iscrowd": 0, **told(label, box, size)})
        categories = [{"id": 3, "name": "square"}, {"id": 90, "name": "disc"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root
