"""Boxes and masks over a picture, with labels that can be read."""

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEAST_HEIGHT = 11  # of a label's letters, in pixels
GOLDEN = 0.618034
HUES = 12  # classes of one shade
FARTHEST = 1_000_000  # pixels from the picture that Pillow can still draw to
OPACITY = 0.45  # of a mask

Colour = tuple[int, int, int]
_SHADES = ((1.0, 0.9), (0.75, 1.0), (1.0, 0.5), (0.85, 0.7))  # value and saturation


def class_colours(count: int) -> list[Colour]:
    """A bright colour for each class: hues apart by the golden ratio, so that neighbours differ most."""
    colours = []
    for number in range(count):
        value, saturation = _SHADES[number // HUES % len(_SHADES)]
        red, green, blue = hsv_to_rgb(number * GOLDEN % 1, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def draw_boxes(
    picture: Image.Image,
    boxes: np.ndarray,
    texts: Sequence[str],
    colours: Sequence[Colour],
    dashed: Sequence[bool] | None = None,
    masks: Sequence[np.ndarray | None] | None = None,
) -> Image.Image:
    """The picture under boxes, the first on top, each with its text on a ground of its colour.

    Args:
      boxes: (N, 4) x0 y0 x1 y1 in the picture's pixels.
      texts: of each; "" for none.
      colours: of each.
      dashed: whether each one's line is broken, as a crowd's is; None: none is.
      masks: (height, width) bool of each, or None for it; laid over the picture, below all boxes.
    """
    drawn = picture.convert("RGB")
    boxes = np.clip(boxes, -FARTHEST, FARTHEST)
    for place in reversed(range(len(masks or ()))):
        if masks is not None and (mask := masks[place]) is not None:
            drawn.paste(colours[place], mask=Image.fromarray((mask * round(255 * OPACITY)).astype(np.uint8)))
    pen = ImageDraw.Draw(drawn)
    height = max(LEAST_HEIGHT, min(drawn.size) // 26)
    width = max(1, height // 7)
    font = ImageFont.load_default(height)
    for place in reversed(range(len(boxes))):
        x0, y0, x1, y1 = (round(float(value)) for value in boxes[place])
        corners = (min(x0, x1), min(y0, y1), max(x0, x1) - (x1 > x0), max(y0, y1) - (y1 > y0))
        if dashed is not None and dashed[place]:
            _dash(pen, corners, colours[place], width)
        else:
            pen.rectangle(corners, outline=colours[place], width=width)
    for place in reversed(range(len(boxes))):
        if texts[place]:
            _label(pen, drawn.size, boxes[place], texts[place], colours[place], font)
    return drawn


def _label(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: np.ndarray,
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Above the box where there is room, else within it; wholly in the picture where it fits at all."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font)
    wide, high = round(right - left) + 4, round(bottom - top) + 4
    x = max(0, min(round(float(box[0])), size[0] - wide))
    above = round(float(box[1])) - high
    y = above if above >= 0 else max(0, min(round(float(box[1])), size[1] - high))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    pen.text((x + 2 - left, y + 2 - top), text, "black" if bright else "white", font)


def _dash(pen: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], colour: Colour, width: int) -> None:
    x0, y0, x1, y1 = corners
    step = 4 * width + 2
    for x in range(x0, x1, 2 * step):
        for y in (y0, y1):
            pen.line((x, y, min(x + step, x1), y), colour, width)
    for y in range(y0, y1, 2 * step):
        for x in (x0, x1):
            pen.line((x, y, x, min(y + step, y1)), colour, width)
