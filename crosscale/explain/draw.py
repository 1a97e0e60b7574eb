"""Attention maps drawn over their picture, side by side for every scale."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crosscale.data.bands import as_shown
from crosscale.errors import RequestError
from crosscale.models.description import Map
from crosscale.tasks.task import CaptionLine

# Dark to bright with rising lightness, so that it also reads in grey and with any colour vision: positions in
# 0..1 and RGB.
_RAMP = (
    (0.00, (8, 6, 32)),
    (0.20, (66, 15, 117)),
    (0.40, (147, 38, 103)),
    (0.60, (221, 81, 58)),
    (0.80, (252, 165, 10)),
    (1.00, (252, 255, 164)),
)
_LEAST_PEAK = 3.0  # times the average: a map that is nearly even must not look like one that is not
_PANEL = 224  # smallest side of a panel in pixels
_GAP = 14
_LINE = 20
_INK, _PAPER, _FAINT = (24, 24, 27), (255, 255, 255), (110, 110, 118)


def colours(values: np.ndarray) -> np.ndarray:
    """(...) in 0..1 -> (..., 3) uint8, from dark to bright."""
    positions, rgb = zip(*_RAMP, strict=True)
    channels = [np.interp(values, positions, channel) for channel in zip(*rgb, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def overlay(
    picture: np.ndarray, values: np.ndarray, strength: float = 0.65, *, brightest: float | None = None
) -> np.ndarray:
    """A map over a picture, in grey so that every colour is attention.

    Args:
      picture: (H, W, C), prepared.
      values: (H, W), at least 0.
      strength: share of the map's colour, 0 (the grey picture) to 1 (the map alone).
      brightest: the value, and all above, that gets the brightest colour; None is the largest of the map.

    Returns:
      (H, W, 3) uint8.

    Raises:
      RequestError: the two differ in size, or `strength` is not in 0..1.
    """
    if picture.shape[:2] != values.shape:
        raise RequestError(f"a map of {values.shape} does not lie over a picture of {picture.shape[:2]}")
    if not 0 <= strength <= 1:
        raise RequestError(f"strength={strength}: must lie in 0..1")
    grey = _rgb(picture).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    top = float(values.max()) if brightest is None else brightest
    coloured = colours(np.minimum(values / max(top, 1e-12), 1.0)).astype(np.float32)
    mixed = (1 - strength) * grey[..., None] + strength * coloured
    return np.rint(mixed).astype(np.uint8)


def brightest(values: np.ndarray) -> float:
    """The value of a map that gets the brightest colour: its largest, but at least three times its average."""
    return max(float(values.max()), _LEAST_PEAK * float(values.mean()))


def peak(values: np.ndarray) -> float:
    """A map's largest value as a multiple of its average; 1 where it is even, 0 where it is empty."""
    average = float(values.mean())
    return float(values.max()) / average if average > 0 else 0.0


def figure(
    picture: np.ndarray,
    maps: Sequence[Map],
    values: Mapping[str, np.ndarray],
    caption: Sequence[CaptionLine] = (),
    *,
    strength: float = 0.65,
    position: tuple[float, float] | None = None,
) -> Image.Image:
    """The picture with what the model says of it, and beside it one column per scale and one row per kind of attention.

    The brightest colour is a map's peak, but at least three times its average; under each map stands how many times
    the average its peak is.

    Args:
      picture: (H, W, C), as the model saw it.
      maps: which maps, as `describe_maps` gives them.
      values: (H, W) by map name.
      caption: lines below the picture; five at most are drawn.
      position: a place to mark, (y, x) as fractions of the picture.
    """
    kinds, scales = (list(dict.fromkeys(getattr(m, name) for m in maps)) for name in ("kind", "scale"))
    pictures = list(dict.fromkeys(m.channels for m in maps))
    height, width = _panel_size(picture.shape[:2])
    column_width, row_height = max(width, _PANEL) + _GAP, height + 2 * _LINE + _GAP
    top = _GAP + _LINE + 4
    canvas_size = (
        _GAP + (1 + len(scales)) * column_width,
        top + max(len(kinds) * row_height, (len(pictures) - 1) * row_height + height + _GAP + 6 * _LINE),
    )
    canvas = Image.new("RGB", canvas_size, _PAPER)
    pen = ImageDraw.Draw(canvas)
    _write(pen, (_GAP, _GAP), "picture", width)
    for row, seen in enumerate(pictures):
        canvas.paste(_panel(_rgb(_part(picture, seen)), (height, width)), (_GAP, top + row * row_height))
    _mark(pen, position, (_GAP, top), (height, width))
    _draw_caption(pen, caption[:5], (_GAP, top + (len(pictures) - 1) * row_height + height + _GAP), width)
    for column, scale in enumerate(scales, start=1):
        _write(pen, (_GAP + column * column_width, _GAP), scale, width)
    for m in maps:
        x = _GAP + (1 + scales.index(m.scale)) * column_width
        y = top + kinds.index(m.kind) * row_height
        shown = overlay(_part(picture, m.channels), values[m.name], strength, brightest=brightest(values[m.name]))
        canvas.paste(_panel(shown, (height, width)), (x, y))
        _mark(pen, position, (x, y), (height, width))
        _write(pen, (x, y + height + 3), m.kind, width)
        _write(pen, (x, y + height + _LINE), f"brightest: {peak(values[m.name]):.1f} x the average", width, _FAINT)
    return canvas


def _part(picture: np.ndarray, channels: tuple[int, int] | None) -> np.ndarray:
    """The channels of one of several pictures; the whole where it is one."""
    return picture if channels is None else picture[..., channels[0] : channels[1]]


def _mark(
    pen: ImageDraw.ImageDraw, position: tuple[float, float] | None, at: tuple[int, int], size: tuple[int, int]
) -> None:
    """A ring around `position` on the panel at (x, y), dark in light so that it shows on anything."""
    if position is None:
        return
    x, y = at[0] + position[1] * size[1], at[1] + position[0] * size[0]
    for radius, width, colour in ((7, 4, _INK), (6, 2, _PAPER)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)


def _draw_caption(pen: ImageDraw.ImageDraw, caption: Sequence[CaptionLine], at: tuple[int, int], width: int) -> None:
    """The lines, with bars of their shares."""
    x, y = at
    for text, value, share in caption:
        pen.rectangle((x, y, x + width, y + _LINE - 4), fill=(238, 238, 242))
        pen.rectangle((x, y, x + round(width * (share or 0.0)), y + _LINE - 4), fill=(178, 196, 240))
        _write(pen, (x + 4, y), text, width - 70)
        _write(pen, (x + width - 58, y), value, 58)
        y += _LINE


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, colour: object = _INK) -> None:
    """One line of text, cut to `width` pixels."""
    font = _font()
    shown = text
    while len(shown) > 1 and pen.textlength(shown, font) > width:
        shown = shown[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    pen.text(at, shown, fill=colour, font=font)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def _panel_size(size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width at which a picture is shown: whole multiples, so that its pixels stay square."""
    factor = max(1, -(-_PANEL // min(size)))
    return size[0] * factor, size[1] * factor


def _panel(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.NEAREST)


def _rgb(picture: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W, 3) uint8: grey repeated, the first three of more channels."""
    picture = as_shown(picture[..., :3])
    return np.repeat(picture[..., :1], 3, axis=-1) if picture.shape[-1] < 3 else picture[..., :3]
