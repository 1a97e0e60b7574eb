"""One pass of a run's best weights over its held-out pictures: what the task finds in them, and attention."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crosscale.contracts import Source
from crosscale.engine.sharding import local_mesh
from crosscale.errors import RequestError, WorkError
from crosscale.explain import describe_maps, explain
from crosscale.explain.draw import figure
from crosscale.predictor import Predictor
from crosscale.runs.validate import DEFAULT_BATCH, HeldOut, examined, measure, open_held_out, stored_data
from crosscale.tasks.sections import Examined, Section

MAX_EXPLAINED = 4
MAX_LINES = 3  # beside the figure


@dataclass(frozen=True)
class Explained:
    """A held-out picture with the attention drawn over it.

    Attributes:
      figure: the sheet, on light paper and on dark.
      folded: likewise of the maps that a sheet may leave out; None where there are none.
    """

    id: str
    truth: str
    figure: tuple[Image.Image, Image.Image]
    folded: tuple[Image.Image, Image.Image] | None = None


@dataclass(frozen=True)
class Analysis:
    """What the pass found.

    Attributes:
      sections: the task's, of the held-out pictures.
      examples: pictures that count.
      explained: a few pictures with their attention; empty where the model has no maps.
      skipped: pictures that did not decode.
      images_per_second: of the pass, loading included.
    """

    sections: list[Section]
    examples: int
    explained: list[Explained] = field(default_factory=list)
    skipped: int = 0
    images_per_second: float = float("nan")


def analyse(folder: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Analysis:
    """Runs the pass over the part that the run held out, on this process's devices alone.

    Args:
      on_progress: told (pictures done, all pictures).

    Raises:
      RequestError: there are no best weights yet, or the data is no longer where the run had it.
      WorkError: the pass failed.
    """
    predictor, stored = Predictor.from_run(folder), stored_data(folder)
    source, _ = open_held_out(predictor.task, HeldOut(), stored, folder, offers_data=False)
    mesh = local_mesh()
    wanted = min(int(stored.get("batch_size", DEFAULT_BATCH)), len(source))
    found = measure(
        predictor,
        predictor.spec,
        source,
        mesh,
        batch_size=mesh.size * -(-wanted // mesh.size),
        collect=True,
        on_batch=lambda done: on_progress(done, len(source)),
        on_bad_image="skip",
    )
    seen = examined(predictor, source, found)
    return Analysis(
        sections=predictor.task.sections(seen),
        examples=int(found.metrics["examples"]),
        explained=_explain_some(predictor, source, seen),
        skipped=int(found.metrics["skipped"]),
        images_per_second=found.metrics["images_per_second"],
    )


def _explain_some(predictor: Predictor, source: Source, seen: Examined) -> list[Explained]:
    """Attention over the most telling picture, and over evenly spread others."""
    try:
        describe_maps(predictor.model, predictor.spec.size)
    except RequestError:
        return []
    task = predictor.task
    spread = np.linspace(0, len(source) - 1, 2 * MAX_EXPLAINED).astype(int)[1::2]
    found: dict[str, Explained] = {}
    for position in (*task.telling(seen)[:1], *map(int, spread)):
        name = seen.name(position)
        if len(found) == MAX_EXPLAINED or name in found:
            continue
        try:
            record, image = source[position], seen.picture(position)
            _, size = predictor.read(record.image, name)
        except WorkError:
            continue
        how: dict[str, Any] = {"spec": predictor.spec, "method": task.method, "sizes": predictor.contents([size])}
        outputs, values = explain(predictor.model, predictor.variables, image[None], **how)
        (result,) = predictor.results(outputs, [name])
        maps = describe_maps(predictor.model, image.shape[:2])
        own = {key: value[0] for key, value in values.items()}
        folded = [m for m in maps if m.folded]
        found[name] = Explained(
            name,
            task.truth(record.target),
            _sheets(image, maps, own, result.caption()[:MAX_LINES]),
            _sheets(image, folded, own, (), folded=True) if folded else None,
        )
    return list(found.values())


def _sheets(*words: Any, **options: Any) -> tuple[Image.Image, Image.Image]:
    return figure(*words, **options), figure(*words, **options, dark=True)
