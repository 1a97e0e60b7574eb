"""A mask file's stored values or colours, and what they mean: labels 0..classes-1, and 255 for what is ignored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from crosscale.data.decode import MAX_PIXELS, BadImage, open_encoded, stored_as
from crosscale.errors import RequestError

IGNORED = 255
MOST_CLASSES = 255  # labels 0..254
SHOWN = 8  # values that an error names

Colour = tuple[int, int, int]

_NO_LABEL = -1
_LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "AVIF": "AVIF", "HEIF": "HEIC"}
_REDUCED = {"L;2": 85, "L;4": 17}  # Pillow spreads fewer bits over 0..255


@dataclass(frozen=True)
class Stored:
    """A decoded mask, as its file holds it.

    Attributes:
      values: (H, W) uint8, or (H, W, 3) uint8 of a mask of colours.
      palette: (256, 3) uint8 of a palette's colours, or None; `values` are its indexes.
    """

    values: np.ndarray
    palette: np.ndarray | None = None

    def colours(self) -> np.ndarray:
        """(H, W, 3) uint8, whatever the file holds."""
        if self.palette is not None:
            return self.palette[self.values]
        return self.values if self.values.ndim == 3 else np.repeat(self.values[..., None], 3, 2)


def read_stored(data: bytes, name: str) -> Stored:
    """Decodes a mask without a change to its values.

    An index stays an index: no palette is applied, grey of 1, 2 or 4 bits is not spread over 0..255, and no orientation
    is looked for.

    Raises:
      BadImage: it is damaged, saved with loss, or has more than 8 bits.
    """
    img = open_encoded(data, name)
    lossy = _LOSSY.get(img.format or "", "lossy WebP" if data[8:16] == b"WEBPVP8 " else "")
    if lossy:
        raise BadImage(name, f"a mask saved as {lossy}, which changes its values; save masks as PNG")
    if img.mode.startswith(("I", "F")):
        raise BadImage(name, f"a mask of more than 8 bits ({_wide_values(img)}); save it with 8: labels 0..254, or 255")
    if img.width * img.height > MAX_PIXELS:
        raise BadImage(name, f"too large: {img.width:,} x {img.height:,} pixels")
    kind = stored_as(img)
    try:
        img.load()
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, EOFError and more
        raise BadImage(name, f"the mask is damaged or cut short ({error or type(error).__name__})") from None
    if img.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        colours = np.array(img.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        palette[: len(colours)] = colours
        return Stored(np.asarray(img), palette)
    if img.mode in ("L", "1", "LA", "PA"):
        values = np.asarray(img.getchannel(0) if len(img.getbands()) > 1 else img).astype(np.uint8)
        return Stored(values // _REDUCED[kind] if kind in _REDUCED else values)
    return Stored(np.asarray(img.convert("RGB")))


def _wide_values(img: Image.Image) -> str:
    try:
        least, most = np.asarray(img).min(), np.asarray(img).max()
    except Exception:  # its values are not what is wrong
        return img.mode
    return f"values {least:g}..{most:g}"


@dataclass(frozen=True)
class MaskReading:
    """What a set's stored values mean.

    Attributes:
      classes: how many.
      labels: of each value 0..255, -1 for a value that has no meaning; not used where there are colours.
      colours: label of each colour, where the masks are read by their colours.
      place: the file or option that says so, for errors.
    """

    classes: int
    labels: tuple[int, ...]
    colours: Mapping[Colour, int] | None = None
    place: str = ""

    @classmethod
    def of_values(cls, classes: int, *, reduce_zero_label: bool = False, place: str = "") -> "MaskReading":
        """Values are labels; with `reduce_zero_label` 0 is ignored and the others count from 1."""
        first = 1 if reduce_zero_label else 0
        mapped = {value: value - first for value in range(first, classes + first)}
        return cls.of_mapping(classes, mapped | ({0: IGNORED} if reduce_zero_label else {}), place=place)

    @classmethod
    def of_mapping(cls, classes: int, mapped: Mapping[int, int], *, place: str = "") -> "MaskReading":
        """Values that stand for other labels; 255 is ignored.

        Raises:
          RequestError: more classes than 8 bits hold.
        """
        if not 1 <= classes <= MOST_CLASSES:
            raise RequestError(f"{place or 'the masks'}: {classes} classes; masks of 8 bits hold 1 to {MOST_CLASSES}")
        known = {IGNORED: IGNORED, **mapped}
        return cls(classes, tuple(known.get(value, _NO_LABEL) for value in range(256)), None, place)

    @classmethod
    def of_colours(cls, classes: int, colours: Mapping[Colour, int], *, place: str) -> "MaskReading":
        """Each pixel's colour stands for a label, or for 255. Raises RequestError for too many classes."""
        return cls(classes, cls.of_mapping(classes, {}, place=place).labels, dict(colours), place)

    def labels_of(self, stored: Stored, name: str) -> np.ndarray:
        """(H, W) uint8 labels. Raises BadImage for a value or colour without a meaning, with those that are found."""
        if self.colours is not None:
            return self._by_colour(stored.colours(), name)
        if stored.values.ndim == 3:
            raise BadImage(name, self._colour_advice(stored.values))
        found = np.flatnonzero(counts_of(stored.values))
        labels = np.array(self.labels)
        if (labels[found] == _NO_LABEL).any():
            raise BadImage(name, self._value_advice(found, stored.palette is not None))
        if (labels[found] == found).all():
            return stored.values
        return labels.astype(np.uint8)[stored.values]

    def _by_colour(self, pixels: np.ndarray, name: str) -> np.ndarray:
        assert self.colours is not None
        known = sorted((code(colour), label) for colour, label in self.colours.items())
        codes = np.array([number for number, _ in known], np.int32)
        labels = np.array([label for _, label in known], np.uint8)
        flat = pixels.reshape(-1, 3).astype(np.int32)
        flat = flat[:, 0] << 16 | flat[:, 1] << 8 | flat[:, 2]
        # A mask is of few runs of one colour each; only a run is looked up.
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        runs = flat[starts]
        places = np.minimum(np.searchsorted(codes, runs), len(codes) - 1)
        strange = runs[codes[places] != runs]
        if strange.size:
            unknown = [f"({v >> 16}, {v >> 8 & 255}, {v & 255})" for v in np.unique(strange).tolist()]
            raise BadImage(
                name,
                f"the colours {listed(unknown)} are not in {self.place}; add a line for each, called ignore where "
                "nothing is to be learnt, or save the mask again without smoothed edges",
            )
        lengths = np.diff(np.append(starts, len(flat)))
        return np.repeat(labels[places], lengths).reshape(pixels.shape[:2])

    def _value_advice(self, found: np.ndarray, has_palette: bool) -> str:
        kind = "indexes" if has_palette else "values"
        meant = [value for value, label in enumerate(self.labels) if label not in (_NO_LABEL, IGNORED)]
        span = f"{meant[0]}..{meant[-1]}" if len(meant) == meant[-1] - meant[0] + 1 else f"{len(meant)} known values"
        where = f" ({self.place})" if self.place else ""
        text = f"the {kind} {listed(found.tolist())} are found, but the {self.classes} classes{where} are {span}"
        if int(found[found < IGNORED].max()) == self.classes and self.labels[0] == 0:
            return f"{text}; if 0 is no class, ask for reduce_zero_label, else name all {self.classes + 1} classes"
        return f"{text}, and 255 is ignored; name every class in classes.txt, or correct the mask"

    @staticmethod
    def _colour_advice(pixels: np.ndarray) -> str:
        if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
            return "a mask of three equal channels; save it as one channel of labels (Pillow's mode L)"
        return (
            "a mask of colours (RGB), and no table says which class each one is; write classes.csv with a line "
            "name,r,g,b for each class, or save labels in one channel"
        )


def counts_of(values: np.ndarray) -> np.ndarray:
    """(256,) int64, how many pixels of each value an (H, W) uint8 array has."""
    return np.array(Image.fromarray(values).histogram(), np.int64)  # four times as quick as NumPy's bincount


def code(colour: Sequence[int]) -> int:
    """A colour as one number."""
    return int(colour[0]) << 16 | int(colour[1]) << 8 | int(colour[2])


def listed(values: Iterable[object]) -> str:
    """The first few of some values, and the last one."""
    texts = [str(value) for value in values]
    return ", ".join(texts if len(texts) <= SHOWN else [*texts[: SHOWN - 1], "...", texts[-1]])
