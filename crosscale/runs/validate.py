"""A validation: of a run's best weights, or of a model with a weight file, on any labelled data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from crosscale.artifact import best_folder, read_artifact
from crosscale.contracts import CropMode, InputSpec, Source
from crosscale.data import eval_batches
from crosscale.data.folds import Fold, cut
from crosscale.data.pipeline import OnBadImage
from crosscale.engine.evaluate import Pass, evaluate
from crosscale.engine.sharding import check_divides, data_mesh, put_whole, replicated, spans_processes
from crosscale.engine.step import EvalStep, make_eval_step
from crosscale.errors import RequestError
from crosscale.predictor import Predictor
from crosscale.tasks.registry import DEFAULT, task_kind
from crosscale.tasks.sections import Examined, Table
from crosscale.tasks.task import Task

DEFAULT_BATCH = 256


@dataclass(frozen=True)
class HeldOut:
    """Where the data is, and which part of it is measured.

    Attributes:
      place: as `crosscale.data.open_source` takes it; None is the run's own.
      split: "val", "train", or "all" of data that comes as one part.
      val_fraction: None is the run's own, or 0.2; counts where the data comes as one part.
      seed: of that split; None is the run's own, or 0.
      root: what a table's paths are relative to; None is the run's own for its own data, else the table's folder.
    """

    place: str | Path | None = None
    split: Literal["train", "val", "all"] = "val"
    val_fraction: float | None = None
    seed: int | None = None
    root: str | Path | None = None


class Validation(NamedTuple):
    """What was measured, the task that says how to read it, and its tables where they were asked for.

    `errors` has a line for each picture of this process that did not decode.
    """

    numbers: dict[str, Any]
    task: Task
    tables: Sequence[Table] = ()
    errors: Sequence[str] = ()


def evaluate_run(
    *,
    run: str | Path | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    weights_key: str = "",
    data_dir: str | Path | None = None,
    split: Literal["train", "val", "all"] = "val",
    val_fraction: float | None = None,
    seed: int | None = None,
    root: str | Path | None = None,
    batch_size: int | None = None,
    crop_pct: float | None = None,
    crop_mode: CropMode | None = None,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    task_options: Mapping[str, Any] | None = None,
    details: bool = False,
    **options: Any,
) -> Validation:
    """Validates a run's best weights, or a model with a weight file.

    Args:
      run: a run folder, or its best/ alone.
      model: a preset, with `weights` and `data_dir`.
      weights_key: which of several sets of weights in the file to take.
      data_dir: None is the run's own; for it and the next four see `HeldOut`.
      batch_size: None is the run's own, or 256, brought up to a multiple of the devices.
      crop_pct: None is the weights' own; likewise `crop_mode`.
      task_options: of a run, see `Predictor.from_run`.
      details: whether the report's tables are wanted, such as that of the classes; one process alone gives them.
      **options: the model's fields, with `model`.

    Returns:
      The numbers: the task's measures, "examples", "skipped", "images_per_second", the task's facts (such as a
      classification's number of "classes"), "data_dir" and "split".

    Raises:
      RequestError: the run, the weights or the data are missing or do not fit together.
      WorkError: a picture does not decode and `on_bad_image` is "error".
    """
    if (run is None) == (model is None) or (model is not None and (weights is None or data_dir is None)):
        raise RequestError("give either a run, or a model with its weights and a data folder")
    asked = HeldOut(data_dir, split, val_fraction, seed, root)
    if run is not None:
        predictor, stored = Predictor.from_run(run, task_options=task_options), stored_data(run)
        source, place = open_held_out(predictor.task, asked, stored, run, offers_split=True)
    else:
        stored, place = {}, str(data_dir)
        source = task_kind(DEFAULT).open(place, split, **_held_out(asked, stored))
        names = getattr(source, "classes", None)
        predictor = Predictor.from_weights(str(model), str(weights), classes=names, key=weights_key, **options)
    spec, mesh = _cropped(predictor, crop_pct, crop_mode), data_mesh()
    if batch_size is None:  # the metrics do not depend on it
        batch_size = mesh.size * -(-stored.get("batch_size", DEFAULT_BATCH) // mesh.size)
    check_divides("batch_size", batch_size, 1, mesh)
    loading: dict[str, Any] = {"workers": workers, "on_bad_image": on_bad_image}
    found = measure(predictor, spec, source, mesh, batch_size=batch_size, collect=details, **loading)
    numbers = {**found.metrics, **predictor.task.facts(), "data_dir": str(place), "split": split}
    return Validation(numbers, predictor.task, _tables(predictor, source, found) if details else (), found.errors)


def _cropped(predictor: Predictor, crop_pct: float | None, crop_mode: CropMode | None) -> InputSpec:
    """The predictor's input with another crop. Raises RequestError where the task has none."""
    spec = predictor.spec
    if crop_pct is not None:
        try:  # where no other crop mode is taken, pictures are not cropped at all
            predictor.task.input_spec(replace(spec, crop_mode="squash"))
        except RequestError:
            raise RequestError(
                f"crop_pct={crop_pct}: the task {predictor.task.name} shows whole pictures; leave it out"
            ) from None
        spec = replace(spec, crop_pct=crop_pct)
    return spec if crop_mode is None else predictor.task.input_spec(replace(spec, crop_mode=crop_mode))


def _tables(predictor: Predictor, source: Source, found: Pass) -> list[Table]:
    sections = predictor.task.sections(examined(predictor, source, found))
    return [block for section in sections for block in section.blocks if isinstance(block, Table)]


def examined(predictor: Predictor, source: Source, found: Pass) -> Examined:
    """A pass with the rows of its examples, as the task's sections read it."""
    examples = predictor.task.examples(predictor.spec)

    def picture(position: int) -> np.ndarray:
        return np.asarray(examples.validation(source[position])["image"])

    def result(position: int) -> Any:
        record = source[position]
        return next(predictor.predict([record.image], batch_size=1))

    return Examined(
        rows=found.rows,
        targets=found.targets,
        index=found.rows["index"],
        name=lambda place: source[place].id,
        picture=picture,
        target=lambda place: source[place].target,
        result=result,
        state=found.state,
    )


def stored_data(run: str | Path) -> dict[str, Any]:
    """What a run's best weights say of their data: "dir", "val_fraction", "seed" and "batch_size", as far as known.

    Raises:
      RequestError: the folder has no best weights, or they cannot be read.
    """
    return dict(read_artifact(best_folder(run)).data)


def open_held_out(
    task: Task,
    asked: HeldOut,
    stored: Mapping[str, Any],
    run: str | Path,
    *,
    offers_data: bool = True,
    offers_split: bool = False,
) -> tuple[Source, str | Path]:
    """The source that is measured, counted as the task counts, and where it is.

    Args:
      stored: as `stored_data` gives it.
      run: stands in the error.
      offers_data: whether the command that asks takes --data-dir, which the error then names; likewise
        `offers_split` for --split.

    Raises:
      RequestError: nobody says where the data is, it is not there, or it has other labels.
    """
    place = stored.get("dir") if asked.place is None else asked.place
    if place is None:
        raise RequestError(f"{run}: does not say what it was trained on; give --data-dir")
    source = _fold(task, place, asked, stored)
    if source is None:
        source = task.reopen(place, asked.split, **_held_out(asked, stored))
    if not len(source):
        ways = "; give other data with --data-dir" * offers_data
        ways += ", or measure what it was trained on with --split train" * offers_split
        raise RequestError(f"{run}: nothing was held out of {place} (data.val_fraction 0){ways}")
    return source, place


def _fold(task: Task, place: str | Path, asked: HeldOut, stored: Mapping[str, Any]) -> Source | None:
    """The requested part of the run's own data where that was cut into folds; None for other data, or another split."""
    own = asked.place is None and asked.val_fraction is None and asked.seed is None
    if "folds" not in stored or not own or asked.split == "all":
        return None
    options = {**_held_out(asked, stored), "val_fraction": 0.0}
    columns: Any = getattr(task, "table", None)
    fold = Fold(stored["folds"], stored["fold"], stored.get("folds_by"), getattr(columns, "path", None))
    train, held_out = cut(task.reopen(place, "train", **options), fold, options["seed"])
    return train if asked.split == "train" else held_out


def measure(
    predictor: Predictor,
    spec: InputSpec,
    source: Source,
    mesh: Mesh,
    *,
    batch_size: int,
    collect: bool = False,
    on_batch: Callable[[int], None] = lambda images: None,
    **loading: Any,
) -> Pass:
    """One pass with a predictor's weights over a source; all processes of the mesh have to call it.

    Args:
      spec: the predictor's, or one with another crop.
      source: counted as the predictor's task counts.
      batch_size: over all devices of the mesh.
      collect: whether the rows of each example are wanted even where the metric does without.
      **loading: see `crosscale.data.eval_batches`.
    """
    task: Any = predictor.task.measuring(source)
    step = _step(predictor.model, spec, task, mesh, collect)
    variables = put_whole(predictor.variables, replicated(mesh))
    if spans_processes(mesh):
        loading |= {"host_index": jax.process_index(), "host_count": jax.process_count()}
    with eval_batches(source, task.examples(spec), batch_size=batch_size, **loading) as batches:
        return evaluate(step, variables, batches, mesh, task.metric, on_batch=on_batch)


# A run that keeps its report up to date makes the same pass again and again, which is traced and compiled once.
@lru_cache(maxsize=2)
def _step(model: Any, spec: InputSpec, task: Any, mesh: Mesh, collect: bool) -> EvalStep:
    return make_eval_step(model, spec, task, mesh, collect=collect)


def _held_out(asked: HeldOut, stored: Mapping[str, Any]) -> dict[str, Any]:
    """How data of one part is split."""
    return {
        "val_fraction": stored.get("val_fraction", 0.2) if asked.val_fraction is None else asked.val_fraction,
        "seed": stored.get("seed", 0) if asked.seed is None else asked.seed,
        "root": stored.get("root") if asked.root is None and asked.place is None else asked.root,
    }
