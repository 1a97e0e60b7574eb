"""The model behind the service: from the bytes of a picture to its input, result and attention maps."""

import base64
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from crosscale.contracts import Array
from crosscale.data import BadImage
from crosscale.data.bands import as_shown
from crosscale.data.decode import in_pieces
from crosscale.data.full_depth import is_compressed_tiff, is_npy, is_tiff
from crosscale.errors import RequestError
from crosscale.explain import describe_attention, explain
from crosscale.explain.draw import brightest
from crosscale.predictor import Predictor
from crosscale.serve.settings import Refused

# Formats of photographs. Pillow reads more, some of them through other programs (EPS) or with loose limits.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")


class Prepared(NamedTuple):
    """A picture as the model takes it, (H, W, C), and the height and width that it came in."""

    image: np.ndarray
    size: tuple[int, int]


class ServedModel:
    """A predictor as the service uses it. Its methods block; the service calls them on threads."""

    def __init__(self, predictor: Predictor, name: str) -> None:
        """
        Args:
          predictor: the same object that `crosscale predict` uses.
          name: of the model, for people.
        """
        self.predictor = predictor
        self.name = name
        self.spec = predictor.spec
        self.task = predictor.task
        try:
            described = describe_attention(predictor.model, self.spec.size)
        except RequestError:
            described = None
        self.maps = described.maps if described else ()
        # Whether attention can be asked for one place of the picture.
        self.takes_position = described is not None and not described.no_position
        Image.init()
        self._formats = tuple(name for name in FORMATS if name in Image.OPEN)

    def prepare(self, data: Any, name: str, max_pixels: int) -> "Prepared":
        """The bytes of an image file, or a tuple of several, that `pixels` has looked at -> the picture, prepared as in
        validation.

        Raises:
          Refused: 413 too many pixels, 422 damaged.
        """
        try:
            return Prepared(*self.predictor.read(data, name, max_pixels=max_pixels))
        except BadImage as error:
            raise Refused(422, f"{name}: {error.reason}") from None

    def pixels(self, data: Any, name: str, max_pixels: int) -> int:
        """How many pixels an image file declares, or those of a tuple together.

        Raises:
          Refused: 413 too many, 415 no photograph format, 422 empty or damaged.
        """
        if isinstance(data, tuple):
            return sum(self.pixels(part, name, max_pixels) for part in data)
        if not data:
            raise Refused(422, f"{name}: the file is empty (0 bytes)")
        if self.spec.pixels != "uint8" and (is_npy(data) or is_tiff(data)):
            if is_tiff(data) and is_compressed_tiff(data):
                # Its reader has no limit on what a few bytes grow to.
                raise Refused(415, f"{name}: a compressed TIFF; send it uncompressed, or as .npy")
            return len(data) // self.spec.channels  # a number takes a byte or more
        try:
            with Image.open(in_pieces(data, name), formats=self._formats) as img:
                width, height = img.size
        except BadImage as error:
            raise Refused(422, str(error)) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refused(413, f"{name}: too large; the limit is {max_pixels:,} pixels") from None
        except UnidentifiedImageError:
            known = ", ".join(name for name in self._formats if name != "MPO")
            raise Refused(415, f"{name}: not a picture in a format that is read here ({known})") from None
        except Exception as error:  # a reader that stumbles over a damaged header may raise anything
            raise Refused(422, f"{name}: the image header is damaged ({error or type(error).__name__})") from None
        if width * height > max_pixels:
            raise Refused(413, f"{name}: too large: {width:,} x {height:,} pixels; the limit is {max_pixels:,} in all")
        return width * height

    def outputs(self, images: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(B, H, W, C) prepared -> the model's outputs, (B, ...) float32.

        Args:
          sizes: (B, 2) heights and widths of the pictures as they came; 0 for what fills the batch up.
        """
        known = np.where(sizes > 0, sizes, sizes.max(0, initial=1))
        return np.asarray(self.predictor.outputs(images, [(int(h), int(w)) for h, w in known]), np.float32)

    def result(
        self, outputs: Array, name: str, options: Mapping[str, Any], size: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        """One picture's outputs -> what the task says of it, in JSON's types, and lines of it for people.

        Args:
          size: height and width of the picture as it came; None where it is as the model takes it.
          options: of the task's results, checked.

        Raises:
          WorkError: the outputs are not finite.
        """
        (result,) = self.predictor.results(outputs[None], [name], None if size is None else [size], **options)
        caption = [line._asdict() for line in result.caption()]
        return {**result.json(), **result.attachments(), "caption": caption}

    def failure(self, name: str, reason: str) -> dict[str, Any]:
        """What stands in place of a picture that could not be used."""
        failed = self.task.failure(name, reason)
        return {**failed.json(), **failed.attachments(), "caption": []}

    def explain(
        self, prepared: "Prepared", name: str, position: tuple[float, float] | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """One picture's result, the picture as the model sees it, and its attention maps, as base64 PNG.

        White is the value that `crosscale explain` draws brightest; "peak" says how many times even attention the
        largest weight is.

        Raises:
          Refused: 422, the model has no maps, or no positions.
        """
        image, size = prepared
        try:
            found = explain(
                self.predictor.model,
                self.predictor.variables,
                image[None],
                spec=self.spec,
                position=position,
                method=self.task.method,
                sizes=self.predictor.contents([size]),
            )
        except RequestError as error:
            raise Refused(422, str(error)) from None
        maps = []
        for entry in self.maps:
            values = found.maps[entry.name][0]
            top = max(brightest(values), float(np.finfo(np.float32).tiny))
            grey = np.rint(255 * values / top).astype(np.uint8)
            maps.append(
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "scale": entry.scale,
                    "peak": float(values.max()) * entry.cells,
                    "png": _png(grey),
                    **({} if entry.channels is None else {"picture": _shown(image[..., slice(*entry.channels)])}),
                }
            )
        return {**self.result(found.outputs[0], name, options, size), "picture": _shown(image), "maps": maps}

    def warm_up(
        self, sizes: Sequence[int], on_shape: Callable[[str, int, int], None] = lambda what, done, total: None
    ) -> None:
        """Compiles every batch size, and one explanation.

        Args:
          on_shape: told what is compiled next, how many shapes are done, and of how many.

        Raises:
          WorkError: the model's outputs are not finite.
        """
        total = len(sizes) + bool(self.maps)
        for done, size in enumerate(sizes):
            on_shape(f"compiling for {size} picture{'s' if size > 1 else ''} at once", done, total)
            blank = np.zeros((size, *self.spec.size, self.spec.channels), self.spec.dtype)
            outputs = self.outputs(blank, np.tile(np.array(self.spec.size), (size, 1)))
            self.result(outputs[0], "", {})
        if self.maps:
            on_shape("compiling the attention maps", len(sizes), total)
            blank = np.zeros((*self.spec.size, self.spec.channels), self.spec.dtype)
            self.explain(Prepared(blank, self.spec.size), "", None, {})
        on_shape("compiled", total, total)


def _shown(image: np.ndarray) -> str:
    """A prepared picture of any channels, three of them shown, as base64 of a PNG file."""
    shown = as_shown(image)
    return _png(shown[:, :, 0] if shown.shape[2] < 3 else shown[:, :, :3])


def _png(pixels: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8 -> base64 of a PNG file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return base64.b64encode(file.getvalue()).decode("ascii")
