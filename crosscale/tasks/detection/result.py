"""What a detector says of one picture."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from crosscale.data.box_drawing import class_colours, draw_boxes
from crosscale.data.coco_masks import bitmap
from crosscale.data.drawing import readable
from crosscale.tasks.task import CaptionLine

QUALITY = 92  # of the drawn JPEG


@dataclass(frozen=True)
class Detected:
    """The boxes of a picture, the best first.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      boxes: (N, 4) float, x0 y0 x1 y1 in pixels of the picture as it came; None where there is an error.
      scores: (N,), 0..1, falling.
      found: (N,) positions in `labels`.
      labels: names of all classes.
      size: height and width of the picture as it came; None where there is an error.
      error: one line on why the picture could not be used; None where it could.
      masks: each box's pixels in the picture, as COCO's compressed run lengths; None for a model without masks.
    """

    source: str
    boxes: np.ndarray | None = field(repr=False)
    scores: np.ndarray = field(repr=False)
    found: np.ndarray = field(repr=False)
    labels: Sequence[str] = field(repr=False)
    size: tuple[int, int] | None = None
    error: str | None = None
    masks: tuple[dict[str, Any], ...] | None = field(default=None, repr=False)

    @property
    def classes(self) -> list[str]:
        """The names of the boxes' classes."""
        return [self.labels[int(label)] for label in self.found]

    def json(self) -> dict[str, Any]:
        """ "source", "size" ([height, width]), "boxes" ([x0, y0, x1, y1] each), "classes", "scores", "error"; with
        masks "masks"."""
        boxes = [] if self.boxes is None else [[round(float(value), 3) for value in box] for box in self.boxes]
        return {
            "source": self.source,
            "size": None if self.size is None else [int(side) for side in self.size],
            "boxes": boxes,
            "classes": self.classes,
            "scores": [round(float(score), 6) for score in self.scores],
            "error": self.error,
            **({} if self.masks is None else {"masks": list(self.masks)}),
        }

    def rows(self) -> list[tuple[str, ...]]:
        """A line per box: its class, its score, its corners in pixels; one that says so where there is none."""
        if self.boxes is None:
            return []
        told = zip(self.classes, self.scores, self.boxes, strict=True)
        lines = [(name, f"{100 * s:.1f} %", *(f"{value:.1f}" for value in box)) for name, s, box in told]
        return lines or [("nothing found", "", "", "", "", "")]

    def caption(self) -> list[CaptionLine]:
        """A line per box, shaded by its score."""
        if self.boxes is None:
            return []
        pairs = zip(self.classes, self.scores, strict=True)
        lines = [CaptionLine(name, f"{100 * score:.1f} %", float(score)) for name, score in pairs]
        return lines or [CaptionLine("nothing found", "")]

    def draw(self, picture: Image.Image) -> Image.Image:
        """The boxes over the picture, and their masks, each with its class and score, in its class's colour.

        A small picture is enlarged, so that the labels do not hide it.
        """
        if self.boxes is None:
            return picture
        shown, factor = readable(picture)
        colours = class_colours(len(self.labels))
        texts = [f"{name} {100 * score:.0f} %" for name, score in zip(self.classes, self.scores, strict=True)]
        size = picture.height, picture.width
        masks = [bitmap(mask, size).repeat(factor, 0).repeat(factor, 1) for mask in self.masks or ()]
        own = [colours[int(label)] for label in self.found]
        return draw_boxes(shown, factor * self.boxes, texts, own, masks=masks)

    def files(self, picture: Image.Image) -> dict[str, bytes]:
        """ "_boxes.jpg": the boxes over the picture."""
        if self.boxes is None:
            return {}
        file = io.BytesIO()
        self.draw(picture).save(file, "JPEG", quality=QUALITY)
        return {"_boxes.jpg": file.getvalue()}

    def attachments(self) -> dict[str, Any]:
        """ "colours": of the boxes' classes, "#rrggbb"."""
        colours = class_colours(len(self.labels))
        return {"colours": ["#{:02x}{:02x}{:02x}".format(*colours[int(label)]) for label in self.found]}


def coco_results(results: Sequence[Mapping[str, Any]], ids: Mapping[str, int], *, masks: bool = False) -> bytes:
    """Results' JSON as a file of COCO's results: "image_id", "category_id", "bbox" (x, y, width, height) and "score".

    A picture's id is the number that its file's name is, as COCO's are, else the name without its ending.

    Args:
      ids: of the classes by name.
      masks: "segmentation" takes the place of "bbox", whose area an evaluation would take for the mask's.
    """
    lines = []
    for item in results:
        stem = PurePath(str(item["source"])).stem
        image = int(stem) if stem.isdecimal() else stem
        told = [{"segmentation": mask} for mask in item["masks"]] if masks else [_bbox(box) for box in item["boxes"]]
        for where, name, score in zip(told, item["classes"], item["scores"], strict=True):
            lines.append({"image_id": image, "category_id": ids[name], **where, "score": score})
    return json.dumps(lines).encode()


def _bbox(box: Sequence[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    return {"bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]}
