"""Attention maps drawn over their picture, side by side for every scale."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

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
LEAST_PEAK = 3.0  # times the average: a map that is nearly even must not look like one that is not
EVEN_PEAK = 1.5  # times the average: a map below it shows nothing, and stays grey
_PANEL = 224  # smallest side of a panel in pixels
_GAP = 14
_LINE = 22
_TEXT = 17  # pixels: on a phone a sheet of two scales is half as wide, and its text can still be read
_LINES = 5  # of a caption
_KEY = 10  # height of the key's colours

_Colour = tuple[int, int, int]


class _Theme(NamedTuple):
    ink: _Colour
    paper: _Colour
    faint: _Colour
    bar: _Colour
    share: _Colour


_LIGHT = _Theme((24, 24, 27), (255, 255, 255), (95, 95, 103), (238, 238, 242), (178, 196, 240))
_DARK = _Theme((239, 237, 244), (22, 21, 27), (167, 163, 177), (45, 43, 53), (62, 78, 128))


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
    return max(float(values.max()), LEAST_PEAK * float(values.mean()))


def peak(values: np.ndarray) -> float:
    """A map's largest value as a multiple of its average; 1 where it is even, 0 where it is empty."""
    average = float(values.mean())
    return float(values.max()) / average if average > 0 else 0.0


def is_even(values: np.ndarray) -> bool:
    """Whether a map's largest value is less than `EVEN_PEAK` times its average, so that it says next to nothing."""
    return peak(values) < EVEN_PEAK


def figure(
    picture: np.ndarray,
    maps: Sequence[Map],
    values: Mapping[str, np.ndarray],
    caption: Sequence[CaptionLine] = (),
    *,
    strength: float = 0.65,
    position: tuple[float, float] | None = None,
    folded: bool = False,
    dark: bool = False,
) -> Image.Image:
    """The picture with what the model says of it, and beside it one column per scale and one row per kind of attention.

    The brightest colour is a map's peak, but at least three times its average; under each map stands how many times
    the average its peak is. A map that is almost even (`is_even`) stays grey, and a line says so.

    Args:
      picture: (H, W, C), as the model saw it.
      maps: which maps, as `describe_maps` gives them.
      values: (H, W) by map name.
      caption: lines below the picture; five at most are drawn.
      position: a place to mark, (y, x) as fractions of the picture.
      folded: whether to draw also the maps that may be left out (`folded`).
      dark: light text on dark paper.
    """
    theme = _DARK if dark else _LIGHT
    maps = [m for m in maps if folded or not m.folded]
    kinds, scales = (list(dict.fromkeys(getattr(m, name) for m in maps)) for name in ("kind", "scale"))
    pictures = list(dict.fromkeys(m.channels for m in maps))
    height, width = _panel_size(picture.shape[:2])
    column_width, row_height = max(width, _PANEL) + _GAP, height + 2 * _LINE + _GAP
    top = _GAP + _LINE + 4
    below = top + (len(pictures) - 1) * row_height + height + _GAP
    said = below - top + (_LINES + 1) * _LINE + _KEY + 4 * _LINE  # the first column, its key at the end
    canvas_size = _GAP + (1 + len(scales)) * column_width, top + max(len(kinds) * row_height, said)
    canvas = Image.new("RGB", canvas_size, theme.paper)
    pen = ImageDraw.Draw(canvas)
    _write(pen, (_GAP, _GAP), "picture", width, theme.ink)
    for row, seen in enumerate(pictures):
        canvas.paste(_panel(_rgb(_part(picture, seen)), (height, width)), (_GAP, top + row * row_height))
    _mark(pen, position, (_GAP, top), (height, width))
    _draw_caption(pen, caption[:_LINES], (_GAP, below), width, theme)
    _draw_key(canvas, (_GAP, canvas_size[1] - _KEY - 4 * _LINE), column_width - _GAP, theme)
    for column, scale in enumerate(scales, start=1):
        _write(pen, (_GAP + column * column_width, _GAP), scale, column_width, theme.ink)
    for m in maps:
        x = _GAP + (1 + scales.index(m.scale)) * column_width
        y = top + kinds.index(m.kind) * row_height
        own = values[m.name]
        part, strongest = _part(picture, m.channels), 0.0 if is_even(own) else strength
        shown = overlay(part, own, strongest, brightest=brightest(own))
        canvas.paste(_panel(shown, (height, width)), (x, y))
        _mark(pen, position, (x, y), (height, width))
        _write(pen, (x, y + height + 3), m.kind, column_width, theme.ink)
        even = "almost even: " if is_even(own) else ""
        _write(pen, (x, y + height + _LINE), f"{even}at most {peak(own):.1f} x even", column_width, theme.faint)
    return canvas


def _draw_key(canvas: Image.Image, at: tuple[int, int], width: int, theme: _Theme) -> None:
    """What the colours mean."""
    pen, (x, y) = ImageDraw.Draw(canvas), at
    ramp = np.broadcast_to(colours(np.linspace(0, 1, width)), (_KEY, width, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), at)
    _write(pen, (x, y + _KEY + 3), "no attention", width, theme.faint)
    most = "the most"
    _write(pen, (x + width - round(pen.textlength(most, _font())), y + _KEY + 3), most, width, theme.faint)
    for line, text in enumerate((f"most: at least {LEAST_PEAK:g} x even", "grey: almost even"), start=1):
        _write(pen, (x, y + _KEY + 3 + line * _LINE), text, width, theme.faint)


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
    for radius, width, colour in ((7, 4, _LIGHT.ink), (6, 2, _LIGHT.paper)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)


def _draw_caption(
    pen: ImageDraw.ImageDraw, caption: Sequence[CaptionLine], at: tuple[int, int], width: int, theme: _Theme
) -> None:
    """The lines, with bars of their shares."""
    x, y = at
    for text, value, share in caption:
        pen.rectangle((x, y, x + width, y + _LINE - 3), fill=theme.bar)
        pen.rectangle((x, y, x + round(width * (share or 0.0)), y + _LINE - 3), fill=theme.share)
        _write(pen, (x + 4, y), text, width - 80, theme.ink)
        _write(pen, (x + width - 68, y), value, 68, theme.ink)
        y += _LINE


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, colour: _Colour) -> None:
    """One line of text, cut to `width` pixels."""
    font = _font()
    shown = text
    while len(shown) > 1 and pen.textlength(shown, font) > width:
        shown = shown[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    pen.text(at, shown, fill=colour, font=font)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)


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
