"""Image files or arrays in, classes and probabilities out, preprocessed as the weights were trained."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import numpy as np

from crosscale.artifact import CONFIG, WEIGHTS, best_folder, read_artifact
from crosscale.contracts import Array, InputSpec, Variables
from crosscale.data import BadImage, eval_transform, open_image
from crosscale.data.decode import MAX_PIXELS, decode
from crosscale.engine.forward import forward
from crosscale.engine.sharding import local_mesh, replicated, split_batch
from crosscale.errors import RequestError, WorkError
from crosscale.models.registry import create_model, input_spec
from crosscale.pretrained import load_weights, restore_model
from crosscale.tasks.classification import Classification

Picture: TypeAlias = str | Path | bytes | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      classes: names of the most probable classes, best first; empty where there is an error.
      probabilities: theirs, each in 0..1.
      error: one line on why the picture could not be used; None where it could.
    """

    source: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


class Predictor:
    """A model with its weights, its preprocessing and the names of its classes."""

    def __init__(
        self,
        model: nn.Module,
        variables: Variables,
        spec: InputSpec,
        classes: Sequence[str] | None = None,
        *,
        source: str | Path | None = None,
    ) -> None:
        """
        Args:
          model: gives logits (B, num_classes) for images.
          variables: the model's, as `init` or `load_weights` returns them.
          spec: the input the weights were trained for.
          classes: names in label order; None calls them "0", "1", ...
          source: the file the variables came from, which errors about them name; None names the model.

        Raises:
          RequestError: the number of names is not the model's number of classes.
        """
        self.model = model
        self.variables = jax.device_put(variables)
        self.spec = spec
        self.source = str(source) if source is not None else type(model).__name__
        self._logits = jax.jit(lambda variables, images: forward(model, variables, images, spec))
        image = jax.ShapeDtypeStruct((1, *spec.size, spec.channels), np.uint8)  # type: ignore[no-untyped-call]
        num_classes = jax.eval_shape(self._logits, variables, image).shape[-1]
        self.classes = tuple(classes if classes is not None else map(str, range(num_classes)))
        if len(self.classes) != num_classes:
            raise RequestError(
                f"{len(self.classes)} class names for a model of {num_classes} classes; give one per class"
            )

    @classmethod
    def from_run(cls, path: str | Path) -> "Predictor":
        """Loads the best weights of a run folder, or of its `best/` folder alone.

        Raises:
          RequestError: the folder is no run, has no best weights yet, or its files do not fit together.
        """
        folder = best_folder(path)
        artifact = read_artifact(folder)
        model, file = restore_model(artifact, folder / CONFIG), folder / WEIGHTS
        return cls(model, load_weights(file, model), artifact.input_spec, artifact.labels, source=file)

    @classmethod
    def from_weights(
        cls,
        model_name: str,
        file: str | Path,
        *,
        classes: Sequence[str] | None = None,
        **overrides: Any,
    ) -> "Predictor":
        """Builds a preset and loads a weight file into it.

        Args:
          model_name: as `list_models()` spells it, or an alias.
          file: weights under any of the names that `load_weights` reads.
          classes: names in label order; they also set the number of classes, which is otherwise the preset's.
          **overrides: the model's fields that differ from the preset's.

        Raises:
          RequestError: an unknown model or field, a missing file, or weights that do not fit.
        """
        if classes is not None:
            overrides.setdefault("num_classes", len(classes))
        model = create_model(model_name, **overrides)
        return cls(model, load_weights(file, model), input_spec(model_name, model), classes, source=file)

    def prepare(self, picture: Picture, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """One picture as the model takes it: decoded, resized and cut as in validation.

        Args:
          picture: a path, an encoded file's bytes, or an array (H, W) or (H, W, C) of uint8.
          name: stands in the error message.
          max_pixels: a file that declares more is refused before any pixel is decoded.

        Returns:
          (height, width, channels) uint8, of the sizes in `spec`.

        Raises:
          BadImage: not a picture, empty, damaged, or too large.
        """
        data = open_image(picture) if isinstance(picture, (str, Path)) else picture
        return np.asarray(eval_transform(self.spec)(decode(data, self.spec.channels, name, max_pixels=max_pixels)))

    def logits(self, images: Array) -> Array:
        """(B, H, W, C) uint8 -> (B, classes), on the device and perhaps not computed yet.

        A program is compiled for every new B.
        """
        return self._logits(self.variables, images)

    def decode(self, logits: Array, top_k: int) -> list[list[tuple[str, float]]]:
        """(B, classes) -> the names and probabilities of each picture's most probable classes, best first.

        Raises:
          WorkError: a logit is NaN or infinite, of which no probability follows.
        """
        logits = np.asarray(logits, np.float32)
        if not np.isfinite(logits).all():
            raise WorkError(
                f"{self.source}: the model's outputs are not finite (NaN or infinite); "
                "its weights are damaged or its training diverged, so use another checkpoint"
            )
        return Classification(len(self.classes)).decode(logits, self.classes, top_k)

    def predict(self, pictures: Iterable[Picture], *, top_k: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
        """Yields one prediction per picture, in order. A bad picture yields its error and the rest go on.

        Args:
          pictures: paths, encoded file bytes, or arrays (H, W) or (H, W, C) of uint8.
          top_k: how many classes to name; no more than there are.
          batch_size: pictures per forward, split over the devices of this process and brought up to a multiple of
            their number. The last batch is filled up, so that one shape is compiled.

        Raises:
          RequestError: `top_k` or `batch_size` is below 1.
          WorkError: while iterating: the model's outputs are not finite.
        """
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value < 1:
                raise RequestError(f"{name}={value}: at least 1")
        devices = jax.local_device_count()
        return self._predict(pictures, min(top_k, len(self.classes)), devices * -(-batch_size // devices))

    def _predict(self, pictures: Iterable[Picture], top_k: int, batch_size: int) -> Iterator[Prediction]:
        numbered = iter(enumerate(pictures))
        # Pillow releases the interpreter while it decodes and resizes, so threads do run at once.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            loading = self._start_loading(pool, numbered, batch_size)
            while loaded := list(loading):
                loading = self._start_loading(pool, numbered, batch_size)  # the host decodes while the device works
                yield from self._read(loaded, self._dispatch(loaded, batch_size), top_k)

    def _start_loading(
        self, pool: ThreadPoolExecutor, numbered: Iterator[tuple[int, Picture]], count: int
    ) -> Iterator["_Loaded"]:
        return pool.map(self._load, list(islice(numbered, count)))

    @cached_property
    def _spread(self) -> tuple[Variables, Any]:
        """The variables on every device of this process, and how to split a batch over these; None for one device."""
        if jax.local_device_count() == 1:
            return self.variables, None
        mesh = local_mesh()
        return jax.device_put(self.variables, replicated(mesh)), split_batch(mesh)

    def _load(self, numbered: tuple[int, Picture]) -> "_Loaded":
        index, picture = numbered
        is_path = isinstance(picture, (str, Path))
        name = str(picture) if is_path else f"image/{index}"
        try:
            return _Loaded(name, self.prepare(picture, name), None)
        except BadImage as error:
            return _Loaded(name, None, error.reason)

    def _dispatch(self, loaded: Sequence["_Loaded"], batch_size: int) -> Array:
        images = [item.image for item in loaded if item.image is not None]
        batch = np.zeros((batch_size, *self.spec.size, self.spec.channels), np.uint8)
        if images:
            batch[: len(images)] = np.stack(images)
            variables, rows = self._spread
            return self._logits(variables, batch if rows is None else jax.device_put(batch, rows))
        return np.zeros((0, len(self.classes)), np.float32)

    def _read(self, loaded: Sequence["_Loaded"], logits: Array, top_k: int) -> Iterator[Prediction]:
        count = sum(item.error is None for item in loaded)
        # What fills the batch up is no picture, and may give anything.
        decoded = iter(self.decode(np.asarray(logits)[:count], top_k))
        for item in loaded:
            if item.error is not None:
                yield Prediction(item.source, (), (), item.error)
                continue
            names, probabilities = zip(*next(decoded), strict=True)
            yield Prediction(item.source, names, probabilities)


@dataclass(frozen=True)
class _Loaded:
    source: str
    image: np.ndarray | None  # (H, W, C) uint8
    error: str | None
