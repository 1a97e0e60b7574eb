"""One pass of a run's best weights over its held-out pictures: confusions, mistakes, attention."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from crosscale.artifact import best_folder, read_artifact
from crosscale.contracts import Array, InputSpec, Source, Variables
from crosscale.data import eval_batches, open_source
from crosscale.engine.forward import forward
from crosscale.errors import RequestError, WorkError
from crosscale.explain import describe_maps, explain
from crosscale.explain.draw import Prediction, figure
from crosscale.predictor import Predictor

MAX_MISTAKES = 24
MAX_EXPLAINED = 4


@dataclass(frozen=True)
class Mistake:
    """A picture that the model was sure of, wrongly.

    Attributes:
      id: of the example in its source.
      truth: label.
      predicted: label.
      probability: of the predicted class, 0..1.
      image: (H, W, C) uint8, as the model saw it.
    """

    id: str
    truth: int
    predicted: int
    probability: float
    image: np.ndarray


@dataclass(frozen=True)
class Explained:
    """A held-out picture with the attention drawn over it."""

    id: str
    truth: str
    figure: Image.Image


@dataclass(frozen=True)
class Analysis:
    """What the pass found.

    Attributes:
      classes: names in label order.
      confusion: (classes, classes) counts; rows are the truth, columns what was predicted.
      mistakes: the most confident first.
      explained: a few pictures with their attention; empty where the model has no maps.
      skipped: pictures that did not decode.
      images_per_second: of the pass, loading included.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    mistakes: list[Mistake]
    explained: list[Explained] = field(default_factory=list)
    skipped: int = 0
    images_per_second: float = float("nan")

    @property
    def examples(self) -> int:
        return int(self.confusion.sum())

    @property
    def per_class(self) -> list[tuple[int, int]]:
        """(right, all) per label."""
        return [
            (int(right), int(count))
            for right, count in zip(self.confusion.diagonal(), self.confusion.sum(1), strict=True)
        ]

    def confused(self, limit: int) -> list[tuple[int, int, int]]:
        """(truth, predicted, count) of the pairs that were taken for each other most often."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        pairs = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order]
        return [
            (truth, predicted, int(wrong[truth, predicted])) for truth, predicted in pairs if wrong[truth, predicted]
        ]


def analyse(folder: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Analysis:
    """Runs the pass over the part that the run held out.

    Args:
      on_progress: told (pictures done, all pictures).

    Raises:
      RequestError: there are no best weights yet, or the data is no longer where the run had it.
      WorkError: the pass failed.
    """
    predictor = Predictor.from_run(folder)
    stored = read_artifact(best_folder(folder)).data
    if not stored.get("dir"):
        raise RequestError(f"{folder}: does not say what it was trained on")
    source = open_source(stored["dir"], "val", val_fraction=stored.get("val_fraction", 0.2), seed=stored.get("seed", 0))
    labels = _labels(source, predictor.classes, folder)
    count = len(predictor.classes)
    confusion = np.zeros((count, count), np.int64)
    mistakes: list[_Candidate] = []
    skipped = done = 0
    began = time.perf_counter()
    batch_size = min(int(stored.get("batch_size", 256)), len(source))
    with eval_batches(source, predictor.spec, batch_size=batch_size, on_bad_image="skip") as batches:
        for batch in batches:
            probabilities = np.asarray(
                _probabilities(predictor.model, predictor.variables, batch.image, predictor.spec)
            )
            keep = batch.weight > 0
            skipped += int(((batch.index >= 0) & ~keep).sum())
            predicted = probabilities.argmax(-1)
            truth = labels[batch.label]
            np.add.at(confusion, (truth[keep], predicted[keep]), 1)
            for i in np.flatnonzero(keep & (predicted != truth)):
                mistakes.append(
                    _Candidate(
                        float(probabilities[i].max()),
                        int(batch.index[i]),
                        int(truth[i]),
                        int(predicted[i]),
                        batch.image[i].copy(),
                    )
                )
            mistakes = sorted(mistakes, key=lambda m: (-m.probability, m.place))[:MAX_MISTAKES]
            done += int((batch.index >= 0).sum())
            on_progress(done, len(source))
    seconds = max(time.perf_counter() - began, 1e-9)
    named = [Mistake(source[m.place].id, m.truth, m.predicted, m.probability, m.image) for m in mistakes]
    explained = _explain_some(predictor, source, named)
    return Analysis(predictor.classes, confusion, named, explained, skipped, done / seconds)


class _Candidate(NamedTuple):
    probability: float
    place: int
    truth: int
    predicted: int
    image: np.ndarray


@partial(jax.jit, static_argnames=("model", "spec"))
def _probabilities(model: Any, variables: Variables, images: Array, spec: InputSpec) -> Array:
    return jax.nn.softmax(forward(model, variables, images, spec).astype("float32"), axis=-1)


def _labels(source: Source, classes: tuple[str, ...], folder: Path) -> np.ndarray:
    positions = {name: index for index, name in enumerate(classes)}
    unknown = [name for name in source.classes if name not in positions]
    if unknown:
        raise RequestError(f"{folder}: the data now has a class '{unknown[0]}' that the run was not trained for")
    return np.array([positions[name] for name in source.classes], np.int32)


def _explain_some(predictor: Predictor, source: Source, mistakes: list[Mistake]) -> list[Explained]:
    """Attention over the surest mistake, and over evenly spread other pictures."""
    try:
        maps = describe_maps(predictor.model, predictor.spec.size)
    except RequestError:
        return []
    from crosscale.data import eval_transform
    from crosscale.data.decode import decode

    pictures = [(m.id, predictor.classes[m.truth], m.image) for m in mistakes[:1]]
    transform = eval_transform(predictor.spec)
    for index in np.linspace(0, len(source) - 1, 2 * MAX_EXPLAINED).astype(int)[1::2]:
        record = source[int(index)]
        if len(pictures) == MAX_EXPLAINED or record.id in [name for name, _, _ in pictures]:
            continue
        try:
            image = transform(decode(record.image, predictor.spec.channels, record.id))
        except WorkError:
            continue
        pictures.append((record.id, source.classes[record.label], image))
    if not pictures:
        return []
    images = np.stack([image for _, _, image in pictures])
    outputs, values = explain(predictor.model, predictor.variables, images, spec=predictor.spec)
    probabilities = np.asarray(jax.nn.softmax(outputs.astype(np.float32), axis=-1))
    found = []
    for i, (name, truth, image) in enumerate(pictures):
        best = np.argsort(-probabilities[i])[:3]
        prediction = Prediction([predictor.classes[k] for k in best], [float(probabilities[i, k]) for k in best])
        own = {key: value[i] for key, value in values.items()}
        found.append(Explained(name, truth, figure(image, maps, own, prediction)))
    return found
