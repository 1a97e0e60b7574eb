"""Several models, or several views of each picture, as one predictor: the mean of their probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosscale.contracts import Array, InputSpec
from crosscale.data import BadImage
from crosscale.data.pictures import Picture, decodable, picture_name
from crosscale.data.reading import read_picture
from crosscale.data.views import views
from crosscale.engine.read_ahead import checked_pictures, read_ahead
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.tasks.checks import check_labels, check_result_options
from crosscale.tasks.task import Result


class Ensemble:
    """Each model looks at each view of a picture, prepared as the model asks for; their probabilities are averaged.

    Attributes:
      predictors: the models.
      task: that of the first, which says the answer: thresholds are its own.
      spec: of the first.
    """

    def __init__(self, predictors: Sequence[Predictor], views_of: Sequence[str] = ()) -> None:
        """
        Args:
          predictors: of the same labels; one at least.
          views_of: names of sets of views (`crosscale.data.views`); () for the one of validation.

        Raises:
          RequestError: the labels differ, the task has no probabilities to average, or there is no such set.
        """
        first = predictors[0]
        self.predictors, self.task, self.spec = tuple(predictors), first.task, first.spec
        for other in predictors[1:]:
            if other.task.name != first.task.name:
                raise RequestError(
                    f"{other.source}: is of the task {other.task.name}, and {first.source} of {first.task.name}"
                )
            message = f"{other.source}: cannot be averaged with {first.source}: {{}}"
            check_labels(first.task.labels, other.task.labels, message, one="class", many="classes")
        # Refused now, and not after the first batch.
        self.task.outputs_of(np.full((1, len(self.task.labels)), 0.5))
        self._voices = [(predictor, view) for predictor in predictors for view in views(views_of, predictor.spec)]

    def predict(self, pictures: Picture | Iterable[Picture], *, batch_size: int = 32, **options: Any) -> Iterator[Any]:
        """As `Predictor.predict`."""
        check_result_options(self.task, options)
        several, size = checked_pictures(pictures, self.spec.channels, batch_size)

        def start(loaded: Sequence[_Seen]) -> Any:
            return self._start([item for item in loaded if item.error is None], size)

        def read(loaded: Sequence[_Seen], outputs: Sequence[Array]) -> Iterator[Result]:
            return self._read(loaded, outputs, options)

        return read_ahead(several, size, self._load, start, read)

    def _load(self, index: int, picture: Picture) -> "_Seen":
        name = picture_name(picture, f"image/{index}")
        decoded: dict[Any, Any] = {}  # models mostly agree on what they read
        try:
            content = decodable(picture, name)
            for spec in (predictor.spec for predictor in self.predictors):
                if _reading(spec) not in decoded:
                    decoded[_reading(spec)] = read_picture(spec, content, name)
        except BadImage as error:
            return _Seen(name, (), error.reason)
        seen = [view.of(decoded[_reading(predictor.spec)], predictor.spec) for predictor, view in self._voices]
        return _Seen(name, tuple(seen), None)

    def _start(self, items: Sequence["_Seen"], batch_size: int) -> list[Array]:
        """The outputs of each voice, perhaps not there yet."""
        outputs = []
        for place, (predictor, _) in enumerate(self._voices):
            batch = np.zeros((batch_size, *predictor.spec.size, predictor.spec.channels), predictor.spec.dtype)
            for row, item in enumerate(items):
                batch[row] = item.images[place]
            outputs.append(predictor.spread_outputs(batch) if items else batch)
        return outputs

    def _read(self, loaded: Sequence["_Seen"], outputs: Sequence[Array], options: dict[str, Any]) -> Iterator[Result]:
        names = [item.source for item in loaded if item.error is None]
        found: Iterator[Result] = iter(())
        if names:
            voices = zip(self._voices, outputs, strict=True)
            said = [self._probabilities(predictor, given, len(names)) for (predictor, _), given in voices]
            found = iter(self.predictors[0].results(self.task.outputs_of(np.mean(said, 0)), names, **options))
        for item in loaded:
            yield next(found) if item.error is None else self.task.failure(item.source, item.error)

    def _probabilities(self, predictor: Predictor, outputs: Array, count: int) -> np.ndarray:
        real = predictor.finite(np.asarray(outputs, np.float32)[:count])
        return np.asarray(predictor.task.activate(real), np.float64)


def _reading(spec: InputSpec) -> tuple[Any, ...]:
    """What the reading of a picture depends on."""
    read = spec.channels, spec.pictures
    return read if spec.pixels == "uint8" else (*read, spec.mean, spec.std)


@dataclass(frozen=True)
class _Seen:
    source: str
    images: tuple[np.ndarray, ...]  # of each voice
    error: str | None
