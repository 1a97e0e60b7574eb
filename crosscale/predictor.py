"""Image files or arrays in, results of the model's task out, preprocessed as the weights were trained."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from crosscale.artifact import CONFIG, best_folder, read_artifact, whole_weights
from crosscale.contracts import Array, InputSpec, Variables
from crosscale.data import BadImage
from crosscale.data.decode import MAX_PIXELS
from crosscale.data.pictures import Picture, decodable, picture_name
from crosscale.data.reading import read_picture
from crosscale.engine.forward import forward, inferred
from crosscale.engine.read_ahead import checked_pictures, read_ahead
from crosscale.engine.sharding import local_mesh, replicated, split_batch
from crosscale.errors import RequestError, WorkError
from crosscale.models.registry import create_model, input_spec
from crosscale.pretrained import load_weights, restore_model, restore_task
from crosscale.pretrained.loading import other_classes
from crosscale.tasks.checks import check_result_options
from crosscale.tasks.registry import own_task, plain_task
from crosscale.tasks.task import Result, Task


class Predictor:
    """A model with its weights, its preprocessing, and the task that reads its outputs.

    Attributes:
      task: what the outputs mean.
      spec: the input that the weights were trained for.
      engine: what runs the model: "jax", or as `run_by` was told.
      output_shape: of the outputs of one picture of the spec's size, such as (classes,).
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Variables,
        spec: InputSpec,
        classes: Sequence[str] | None = None,
        *,
        source: str | Path | None = None,
        task: Task | None = None,
    ) -> None:
        """
        Args:
          model: its outputs are the task's.
          variables: the model's, as `init` or `load_weights` returns them.
          spec: the input the weights were trained for.
          classes: names in label order; None calls them "0", "1", ...
          source: the file the variables came from, which errors about them name; None names the model.
          task: what the outputs mean; None is a classification of `classes`, for a detector or a segmentation model its
            own task.

        Raises:
          RequestError: the outputs are not the task's, such as one class more than there are names.
        """
        task = task or own_task(model, classes)
        self.model = model
        self.variables = jax.device_put(variables)
        self.spec = spec
        self.source = str(source) if source is not None else type(model).__name__

        def outputs(variables: Variables, images: Array, sizes: Array | None = None) -> Any:
            return (
                forward(model, variables, images, spec)
                if task is None
                else inferred(model, variables, images, spec, task, sizes)
            )

        self._outputs = jax.jit(outputs)
        self.engine = "jax"
        self._run: Callable[[np.ndarray], np.ndarray] | None = None
        image = jax.ShapeDtypeStruct((1, *spec.size, spec.channels), spec.dtype)
        self.output_shape = shape = jax.eval_shape(self._outputs, variables, image).shape[1:]
        self.task = task or plain_task(classes if classes is not None else list(map(str, range(shape[-1]))))
        self.task.check_outputs(shape)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the outputs are called, in order: for a classification, the class names."""
        return self.task.labels

    @classmethod
    def from_run(cls, path: str | Path, *, task_options: Mapping[str, Any] | None = None) -> "Predictor":
        """Loads the best weights of a run folder, or of its `best/` folder alone.

        Args:
          task_options: of the recipe's section `task`, those that can be changed after training (`Task.test_options`);
            of a segmentation `window`, `window_stride`, `test_flip` and `test_scales`.

        Raises:
          RequestError: the folder is no run, has no best weights yet, or its files or the options do not fit together.
        """
        folder = best_folder(path)
        artifact = read_artifact(folder)
        task = restore_task(artifact, folder / CONFIG).with_options(task_options or {})
        model, file = restore_model(artifact, folder / CONFIG), whole_weights(folder, artifact)
        return cls(model, load_weights(file, model), artifact.input_spec, source=file, task=task)

    @classmethod
    def from_weights(
        cls,
        model_name: str,
        file: str | Path,
        *,
        classes: Sequence[str] | None = None,
        key: str = "",
        **overrides: Any,
    ) -> "Predictor":
        """Builds a preset and loads a weight file into it.

        Args:
          model_name: as `list_models()` spells it, or an alias.
          file: weights under any of the names that `load_weights` reads.
          classes: names in label order; they also set the number of classes, which is otherwise the preset's.
          key: which of several sets of weights in the file to take; see `load_weights`.
          **overrides: the model's fields that differ from the preset's.

        Raises:
          RequestError: an unknown model or field, a missing file, or weights that do not fit.
        """
        decided = {} if classes is None else plain_task(classes).model_options({})
        model = create_model(model_name, **{**decided, **overrides})
        try:
            variables = load_weights(file, model, key=key)
        except RequestError as error:
            raise other_classes(error, file, model, key=key, named=classes is not None) from None
        return cls(model, variables, input_spec(model_name, model), classes, source=file)

    def run_by(self, run: Callable[[np.ndarray], np.ndarray], engine: str) -> "Predictor":
        """The same predictor with another program in place of JAX's, as `crosscale.export.engines` makes them.

        Args:
          run: (B, H, W, C) uint8 of the spec's size -> what `outputs` gives. What needs more of the model than these,
            such as attention maps, goes on with JAX.
          engine: what runs it.
        """
        other = copy.copy(self)
        other._run, other.engine = run, engine
        return other

    def prepare(self, picture: Picture, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """One picture as the model takes it: decoded, resized and cut as in validation.

        Args:
          picture: a path, an encoded file's bytes, an open file, a Pillow image, or an array (H, W) or (H, W, C) of
            uint8, also JAX's or PyTorch's (of a tensor the channels may come first). Where `spec.pixels` is
            "float32", of any type (`crosscale.data.full_depth`). A model that looks at several pictures together takes
            a tuple of them, in the order of its branches, or their paths with "::" between them.
          name: stands in the error message.
          max_pixels: a file that declares more is refused before any pixel is decoded.

        Returns:
          (height, width, channels), of `spec.dtype`: the sizes are those in `spec`, or what the task makes of the
          picture's own.

        Raises:
          BadImage: not a picture, empty, damaged, or too large.
        """
        return self.read(picture, name, max_pixels=max_pixels)[0]

    def read(self, picture: Picture, name: str, *, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, tuple[int, int]]:
        """What `prepare` gives, and the (height, width) that the picture came in, which `results` may need."""
        img = read_picture(self.spec, decodable(picture, name), name, max_pixels=max_pixels)
        first = img[0] if isinstance(img, tuple) else img
        return self.task.fit(self.spec, img), (first.height, first.width)

    def outputs(self, images: Array, sizes: Sequence[tuple[int, int]] | None = None) -> Array:
        """(B, H, W, C) -> the model's outputs, such as logits (B, classes), on the device, perhaps not there yet.

        A program is compiled for every new B.

        Args:
          sizes: the (height, width) of each picture as `read` gives it; None where the pictures fill the images.
        """
        if self._run is not None:
            return self._run(np.asarray(images))
        return self._outputs(self.variables, images, None if sizes is None else self.contents(sizes))

    def spread_outputs(self, images: np.ndarray, contents: np.ndarray | None = None) -> Array:
        """The outputs of a batch that divides over this process's devices, which share it; perhaps not there yet.

        Args:
          images: (B, H, W, C), prepared.
          contents: as the method of that name gives them.
        """
        if self._run is not None:
            return self._run(images)
        variables, rows = self._spread
        put = images, contents
        return self._outputs(variables, *(put if rows is None else jax.device_put(put, rows)))

    def contents(self, sizes: Sequence[tuple[int, int]]) -> np.ndarray | None:
        """(B, 2) height and width of pictures of these sizes within what is fed; None for a task without these."""
        found = [self.task.content(self.spec, (int(height), int(width))) for height, width in sizes]
        return None if None in found else np.array(found, np.int32)

    def results(
        self, outputs: Array, sources: Sequence[str], sizes: Sequence[tuple[int, int]] | None = None, **options: Any
    ) -> list[Any]:
        """The outputs of pictures -> what the task says of each.

        Args:
          sources: the pictures' names.
          sizes: the (height, width) of each as `read` gives it; None where these do not matter.
          **options: the task's own, such as `top_k`.

        Raises:
          WorkError: an output is NaN or infinite, from which nothing follows.
        """
        return self.task.results(self.finite(np.asarray(outputs, np.float32)), sources, sizes, **options)

    def finite(self, outputs: np.ndarray) -> np.ndarray:
        """The outputs. Raises WorkError where one is NaN or infinite, from which nothing follows."""
        if not np.isfinite(outputs).all():
            raise WorkError(
                f"{self.source}: the model's outputs are not finite (NaN or infinite); "
                "its weights are damaged or its training diverged, so use another checkpoint"
            )
        return outputs

    def predict(self, pictures: Picture | Iterable[Picture], *, batch_size: int = 32, **options: Any) -> Iterator[Any]:
        """Yields one `Result` per picture, in order. A bad picture yields its error and the rest go on.

        Args:
          pictures: pictures as `prepare` takes them, or a single one. An array (N, H, W) is N grey pictures, one
            (N, H, W, C) N pictures.
          **options: the task's own; for a classification `top_k` (5), how many classes to name.
          batch_size: pictures per forward, split over the devices of this process and brought up to a multiple of
            their number. The last batch is filled up, so that one shape is compiled.

        Raises:
          RequestError: `batch_size` is below 1, an option is wrong, or `pictures` are none.
          WorkError: while iterating: the model's outputs are not finite.
        """
        check_result_options(self.task, options)
        return self._predict(*checked_pictures(pictures, self.spec.channels, batch_size), options)

    def _predict(self, pictures: Iterable[Picture], batch_size: int, options: dict[str, Any]) -> Iterator[Result]:
        def start(loaded: Sequence[Loaded]) -> Any:
            batches = self.batches(loaded, batch_size)
            return [(part, self.spread_outputs(batch, contents)) for part, batch, contents in batches]

        def read(loaded: Sequence[Loaded], started: Any) -> Iterator[Result]:
            return self._read(loaded, started, options)

        return read_ahead(pictures, batch_size, self.load, start, read)

    @cached_property
    def _spread(self) -> tuple[Variables, Any]:
        """The variables on every device of this process, and how to split a batch over these; None for one device."""
        if jax.local_device_count() == 1:
            return self.variables, None
        mesh = local_mesh()
        return jax.device_put(self.variables, replicated(mesh)), split_batch(mesh)

    def load(self, index: int, picture: Picture) -> "Loaded":
        """A picture as `read` gives it, or why it cannot be used; `index` names one that has no name."""
        name = picture_name(picture, f"image/{index}")
        try:
            return Loaded(name, *self.read(picture, name), None)
        except BadImage as error:
            return Loaded(name, None, (0, 0), error.reason)

    def batches(
        self, loaded: Sequence["Loaded"], batch_size: int
    ) -> Iterator[tuple[list["Loaded"], np.ndarray, np.ndarray | None]]:
        """Yields pictures of one shape, the batch (B, H, W, C) whose first rows they are, and its contents."""
        groups: dict[tuple[int, ...], list[Loaded]] = {}
        for item in loaded:
            if item.image is not None:
                groups.setdefault(item.image.shape, []).append(item)
        for shape, items in groups.items():
            # For a shape that few pictures have, most of a batch would be padding: one for each device.
            count = batch_size if shape[:2] == self.spec.size else jax.local_device_count()
            for start in range(0, len(items), count):
                part = items[start : start + count]
                batch = np.zeros((count, *shape), self.spec.dtype)
                batch[: len(part)] = np.stack([np.asarray(item.image) for item in part])
                yield part, batch, self.contents([item.size for item in part] + [part[-1].size] * (count - len(part)))

    def _read(
        self,
        loaded: Sequence["Loaded"],
        dispatched: Sequence[tuple[list["Loaded"], Array]],
        options: dict[str, Any],
    ) -> Iterator[Result]:
        found: dict[int, Result] = {}
        for part, outputs in dispatched:
            sources, sizes = [item.source for item in part], [item.size for item in part]
            # What fills the batch up is no picture, and may give anything.
            results = self.results(np.asarray(outputs)[: len(part)], sources, sizes, **options)
            found |= {id(item): result for item, result in zip(part, results, strict=True)}
        for item in loaded:
            yield self.task.failure(item.source, item.error) if item.error is not None else found[id(item)]


@dataclass(frozen=True)
class Loaded:
    """A picture that was read, or could not be.

    Attributes:
      source: its name.
      image: (H, W, C) as the model takes it; None where it could not be read.
      size: its own height and width.
      error: why it could not be read.
    """

    source: str
    image: np.ndarray | None
    size: tuple[int, int]
    error: str | None
