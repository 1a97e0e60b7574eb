"""What a segmentation says of one picture."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crosscale.data.drawing import readable
from crosscale.tasks.task import CaptionLine

OPACITY = 0.55
SHOWN = 12  # classes in a legend


@dataclass(frozen=True)
class Segmented:
    """The label of every pixel.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      mask: (H, W) uint8, positions in `labels`, at the picture's own size; None where there is an error.
      labels: names of the classes.
      palette: (classes, 3) uint8, the colour of each.
      error: one line on why the picture could not be used; None where it could.
    """

    source: str
    mask: np.ndarray | None = field(repr=False)
    labels: Sequence[str] = field(repr=False)
    palette: np.ndarray = field(repr=False)
    error: str | None = None

    @property
    def areas(self) -> list[tuple[int, int]]:
        """(label, pixels) of the classes that are there, the largest first."""
        if self.mask is None:
            return []
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels))[: len(self.labels)]
        order = np.argsort(-counts, kind="stable")
        return [(int(label), int(counts[label])) for label in order if counts[label]]

    def _share(self, pixels: int) -> float:
        return pixels / self.mask.size if self.mask is not None else 0.0

    def json(self) -> dict[str, Any]:
        """ "source", "size" ([height, width]), "classes" with their "shares" of the picture and "pixels", "error"."""
        found = self.areas
        return {
            "source": self.source,
            "size": None if self.mask is None else [int(side) for side in self.mask.shape],
            "classes": [self.labels[label] for label, _ in found],
            "shares": [self._share(pixels) for _, pixels in found],
            "pixels": [pixels for _, pixels in found],
            "error": self.error,
        }

    def rows(self) -> list[tuple[str, ...]]:
        """A line per class: its name, its share of the picture in percent, its pixels."""
        return [(self.labels[label], f"{100 * self._share(n):.2f} %", str(n)) for label, n in self.areas]

    def caption(self) -> list[CaptionLine]:
        """A line per class, shaded by its share."""
        return [CaptionLine(self.labels[a], f"{100 * self._share(n):.1f} %", self._share(n)) for a, n in self.areas]

    def draw(self, picture: Image.Image) -> Image.Image:
        """The classes' colours over the picture, with a legend below it."""
        return overlay(picture, self.mask, self.labels, self.palette)

    def files(self, picture: Image.Image) -> dict[str, bytes]:
        """ "_mask.png": the labels, with the palette; "_overlay.png": them over the picture."""
        if self.mask is None:
            return {}
        return {"_mask.png": index_png(self.mask, self.palette), "_overlay.png": _png(self.draw(picture))}

    def attachments(self) -> dict[str, Any]:
        """ "mask": base64 of a PNG file of indexes; "runs": the same as [label, length, ...], row by row; "colours": of
        `classes`, "#rrggbb"."""
        if self.mask is None:
            return {"mask": None, "runs": [], "colours": []}
        encoded = base64.b64encode(index_png(self.mask, self.palette)).decode("ascii")
        colours = ["#" + self.palette[label].tobytes().hex() for label, _ in self.areas]
        return {"mask": encoded, "runs": run_lengths(self.mask), "colours": colours}


def index_png(mask: np.ndarray, palette: np.ndarray) -> bytes:
    """(H, W) uint8 labels as a PNG of indexes, which viewers show in the palette's colours."""
    img = Image.fromarray(mask)
    img.putpalette(palette.astype(np.uint8).tobytes())
    return _png(img)


def run_lengths(mask: np.ndarray) -> list[int]:
    """(H, W) labels as [label, length, label, length, ...], row by row."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, np.int64)
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    return [int(value) for value in np.stack([flat[starts], lengths], -1).ravel()]


def coloured(picture: Image.Image, mask: np.ndarray, palette: np.ndarray) -> Image.Image:
    """The labels' colours over the picture; labels beyond the palette leave it as it is."""
    size = (mask.shape[1], mask.shape[0])
    under = np.asarray(picture.convert("RGB").resize(size), np.float32)
    known = (mask < len(palette))[..., None]
    colours = palette[np.minimum(mask, len(palette) - 1)].astype(np.float32)
    mixed = np.where(known, (1 - OPACITY) * under + OPACITY * colours, under)
    return Image.fromarray(mixed.round().astype(np.uint8))


def overlay(picture: Image.Image, mask: np.ndarray | None, labels: Sequence[str], palette: np.ndarray) -> Image.Image:
    """The picture under the labels' colours, and a legend of those that are there, the largest first.

    A small picture is enlarged, so that the legend fits below it.
    """
    if mask is None:
        return picture
    drawn, _ = readable(coloured(picture, mask, palette))
    shown = Segmented("", mask, labels, palette).areas[:SHOWN]
    height = max(14, drawn.height // 40)
    font = ImageFont.load_default(height)
    lines: list[list[tuple[str, int, int]]] = [[]]
    right = 0
    for label, pixels in shown:
        text = f"{labels[label]} {100 * pixels / mask.size:.1f} %"
        width = int(font.getlength(text)) + 3 * height
        if lines[-1] and right + width > drawn.width:
            lines.append([])
            right = 0
        lines[-1].append((text, label, right))
        right += width
    page = Image.new("RGB", (drawn.width, drawn.height + 2 * height * len(lines)), "white")
    page.paste(drawn)
    pen = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        top = drawn.height + 2 * height * row + height // 2
        for text, label, left in line:
            pen.rectangle((left, top, left + height, top + height), tuple(map(int, palette[label])), "black")
            pen.text((left + height * 1.4, top + height / 2), text, "black", font, anchor="lm")
    return page


def _png(img: Image.Image) -> bytes:
    file = io.BytesIO()
    img.save(file, "PNG")
    return file.getvalue()
