"""The model behind the service: from the bytes of a picture to its input, classes and attention maps."""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import jax
import numpy as np
from PIL import Image, UnidentifiedImageError

from crosscale.contracts import Array
from crosscale.data import BadImage, eval_transform
from crosscale.data.decode import decode
from crosscale.engine.forward import forward
from crosscale.errors import RequestError
from crosscale.explain import describe_maps, explain
from crosscale.predictor import Predictor
from crosscale.serve.settings import Refused
from crosscale.tasks.classification import Classification

# Formats of photographs. Pillow reads more, some of them through other programs (EPS) or with loose limits.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")


class Served:
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
        self.classes = predictor.classes
        self._task = Classification(len(self.classes))
        model = predictor.model
        self._logits = jax.jit(lambda variables, images: forward(model, variables, images, predictor.spec))
        try:
            self.maps = describe_maps(model, self.spec.size)
        except RequestError:
            self.maps = ()
        Image.init()
        self._formats = tuple(name for name in FORMATS if name in Image.OPEN)

    @property
    def takes_position(self) -> bool:
        """Whether attention can be asked of one place of the picture."""
        from crosscale.models.crossformer.backbone import CrossFormer

        return isinstance(self.predictor.model, CrossFormer)

    def prepare(self, data: bytes, name: str, max_pixels: int) -> np.ndarray:
        """The bytes of an image file -> (H, W, C) uint8, as validation and prediction prepare it.

        Raises:
          Refused: 413 too many pixels, 415 no photograph format, 422 empty or damaged.
        """
        self._check_header(data, name, max_pixels)
        try:
            return np.asarray(eval_transform(self.spec)(decode(data, self.spec.channels, name, max_pixels=max_pixels)))
        except BadImage as error:
            raise Refused(422, f"{name}: {error.reason}") from None

    def _check_header(self, data: bytes, name: str, max_pixels: int) -> None:
        if not data:
            raise Refused(422, f"{name}: the file is empty (0 bytes)")
        try:
            with Image.open(BytesIO(data), formats=self._formats) as img:
                width, height = img.size
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refused(413, f"{name}: too large; the limit is {max_pixels:,} pixels") from None
        except UnidentifiedImageError:
            known = ", ".join(name for name in self._formats if name != "MPO")
            raise Refused(415, f"{name}: not a picture in a format that is read here ({known})") from None
        except Exception as error:  # a reader that stumbles over a damaged header may raise anything
            raise Refused(422, f"{name}: the image header is damaged ({error or type(error).__name__})") from None
        if width * height > max_pixels:
            raise Refused(413, f"{name}: too large: {width:,} x {height:,} pixels; the limit is {max_pixels:,} in all")

    def logits(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) uint8 -> (B, classes) float32."""
        return np.asarray(self._logits(self.predictor.variables, images), np.float32)

    def decode(self, logits: Array, top_k: int) -> dict[str, Any]:
        """One picture's logits (classes,) -> its most probable classes and their probabilities."""
        (best,) = self._task.decode(logits[None], self.classes, min(top_k, len(self.classes)))
        return {"classes": [name for name, _ in best], "probabilities": [value for _, value in best]}

    def explain(self, image: np.ndarray, position: tuple[float, float] | None, top_k: int) -> dict[str, Any]:
        """One picture's classes, the picture as the model sees it, and its attention maps, as base64 PNG.

        Every map is scaled to its largest weight; "peak" says how many times even attention that is.

        Raises:
          Refused: 422, the model has no maps, or no positions.
        """
        try:
            found = explain(
                self.predictor.model, self.predictor.variables, image[None], spec=self.spec, position=position
            )
        except RequestError as error:
            raise Refused(422, str(error)) from None
        maps = []
        for entry in self.maps:
            values = found.maps[entry.name][0]
            largest = max(float(values.max()), float(np.finfo(np.float32).tiny))
            grey = np.rint(255 * values / largest).astype(np.uint8)
            maps.append(
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "scale": entry.scale,
                    "peak": largest * entry.cells,
                    "png": _png(grey),
                }
            )
        picture = image[:, :, 0] if image.shape[2] == 1 else image
        return {**self.decode(found.outputs[0], top_k), "picture": _png(picture), "maps": maps}

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Compiles every batch size, and one explanation."""
        for size in sizes:
            self.logits(np.zeros((size, *self.spec.size, self.spec.channels), np.uint8))
        if self.maps:
            self.explain(np.zeros((*self.spec.size, self.spec.channels), np.uint8), None, 1)


def _png(pixels: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8 -> base64 of a PNG file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return base64.b64encode(file.getvalue()).decode("ascii")
