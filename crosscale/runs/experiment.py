"""Recipe -> experiment: the data, the model, the task and the schedule, checked against each other."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.sharding import Mesh

from crosscale.artifact import WEIGHTS, Artifact, check_option, file_digest, write_artifact
from crosscale.contracts import InputSpec, Source, Variables
from crosscale.data import steps_per_epoch
from crosscale.data.folds import Fold, cut
from crosscale.data.once import read_once
from crosscale.data.subset import subset
from crosscale.engine.length import RunLength, check_total, run_length
from crosscale.engine.optimizer import Schedule, make_optimizer, make_schedule, warmup_length
from crosscale.engine.run_folder import replace_folder
from crosscale.engine.settings import AUTO
from crosscale.engine.sharding import check_divides, make_mesh
from crosscale.errors import RequestError
from crosscale.models.model import ImageModel
from crosscale.models.registry import check_name, create_model, input_spec
from crosscale.models.shapes import variable_shapes
from crosscale.pretrained import save_weights
from crosscale.pretrained.teacher import load_teacher
from crosscale.recipe import Recipe
from crosscale.runs.channels import check_pixels, with_channels
from crosscale.runs.places import data_place, with_whole_paths
from crosscale.tasks.distillation import Distilled
from crosscale.tasks.measure import check_best
from crosscale.tasks.registry import DEFAULT, task_kind
from crosscale.tasks.task import Task

CURVE_POINTS = 60
# What a model meets, in its constructor or where its parameters are made, in a value that it does not expect.
_NOT_BUILT = (TypeError, AttributeError, ValueError, ArithmeticError, LookupError, AssertionError, FlaxError)


@dataclass(frozen=True)
class Experiment:
    """A recipe made concrete.

    Attributes:
      recipe: with the class names and the data's absolute path filled in.
      options: the model's constructor fields as JSON holds them, without those that the task decides.
      task: what is learnt; with a teacher, the task that learns from it too.
      best: the measure that the best weights are chosen by.
    """

    recipe: Recipe
    model: ImageModel
    options: dict[str, Any]
    spec: InputSpec
    task: Task
    best: str
    train_source: Source
    val_source: Source
    schedule: Schedule
    steps_per_epoch: int
    mesh: Mesh

    @property
    def artifact(self) -> Artifact:
        """What `best/` will say, except the numbers of a validation."""
        recipe, task = self.recipe, self.task
        return Artifact(
            model=recipe.model.name,
            options=self.options,
            labels=task.labels,
            num_outputs=len(task.labels),
            input_spec=self.spec,
            task=task.name,
            task_options=task.artifact_options(),
            data={
                "dir": recipe.data.dir,
                **({} if recipe.data.root is None else {"root": recipe.data.root}),
                **{
                    name: value
                    for name in ("subset", "folds", "fold", "folds_by")
                    if (value := getattr(recipe.data, name)) is not None
                },
                "val_fraction": recipe.data.val_fraction,
                "seed": recipe.train.seed,
                "batch_size": recipe.validate.batch_size,
            },
        )

    @cached_property
    def shapes(self) -> Variables:
        """The model's variables as `jax.ShapeDtypeStruct`s, without computing any."""
        return variable_shapes(self.model, self.spec.size, self.spec.channels)

    @property
    def length(self) -> RunLength:
        """The length of the run."""
        return run_length(self.recipe.train, self.steps_per_epoch)


Splits = tuple[Source, Source]  # to train on, held out


def build(recipe: Recipe, *, without_data: bool = False, splits: Splits | None = None) -> Experiment:
    """Opens the data, builds the model and checks that everything fits.

    Args:
      splits: what `open_splits` gave for the recipe, where that has been called.
      without_data: where data.dir is not set, count with the sizes that the recipe declares; the result can be
        described but not trained.

    Raises:
      RequestError: something is missing or does not fit; one line that names the recipe's key.
    """
    kind = task_kind(recipe.task.name)
    check_name(recipe.model.name)  # before a million files are listed
    train_source, val_source = splits or open_splits(recipe, without_data=without_data)
    recipe = with_channels(recipe, train_source)
    data, train = recipe.data, recipe.train
    plain = kind.from_data(recipe.task, recipe.augment, train_source).measuring(val_source)
    if data.dir is not None and data.classes is not None:
        plain.check_recorded(data.classes, data.dir)
    model, options, spec = _built(recipe, plain)
    mesh = make_mesh(recipe.mesh)
    check_divides("train.batch_size", train.images_per_step, recipe.optimizer.accumulate, mesh)
    check_divides("validate.batch_size", recipe.validate.batch_size, 1, mesh)
    best = _check_validation(recipe, plain, val_source)
    per_epoch = steps_per_epoch(train_source, train.images_per_step)
    check_total(train, per_epoch)
    schedule = make_schedule(
        recipe.schedule,
        recipe.optimizer,
        batch_size=train.images_per_step,
        steps_per_epoch=per_epoch,
        epochs=train.epochs,
        steps=train.steps,
    )
    if data.dir is not None:
        root = None if data.root is None else data_place(data.root)
        recipe = replace(recipe, data=replace(data, dir=data_place(data.dir), root=root, classes=plain.labels))
    recipe = with_whole_paths(recipe)
    experiment = Experiment(
        recipe=recipe,
        model=model,
        options=options,
        spec=spec,
        task=_with_teacher(plain, recipe, spec),
        best=best,
        train_source=train_source,
        val_source=val_source,
        schedule=schedule,
        steps_per_epoch=per_epoch,
        mesh=mesh,
    )
    _ = experiment.artifact  # refuses now what could not be written after the first validation
    return experiment


def _built(recipe: Recipe, task: Task) -> tuple[ImageModel, dict[str, Any], InputSpec]:
    """The model, its options without those that the task decides, and its input. Raises RequestError."""
    train = recipe.train
    decided = task.model_options(recipe.model.options, recipe.data.dir)
    options = {name: value for name, value in recipe.model.options.items() if name not in decided}
    if train.dtype != "float32":
        options["dtype"] = train.dtype
    remat = {"remat": True} if train.remat == "blocks" else {}
    with constructing(recipe.model.name, recipe.model.options):
        model = create_model(recipe.model.name, **{**options, **decided, **remat})
        spec = task.input_spec(_input_spec(recipe, model))
        variable_shapes(model, spec.size, spec.channels)  # some options fail only where the parameters are made
        _check_outputs(model, recipe.model.name, spec, task)
    return model, options, spec


def _check_validation(recipe: Recipe, task: Task, val_source: Source) -> str:
    """The measure that the best weights are chosen by. Raises RequestError."""
    best = check_best(recipe.validate.best, task.measures, task.best)
    task.metric.check_best(best)
    if recipe.validate.calibrate:
        try:
            task.check_calibration()
        except RequestError as error:
            raise RequestError(f"validate.calibrate=true: {error}") from None
        if not len(val_source):
            raise RequestError("validate.calibrate=true: nothing is held out to calibrate on (data.val_fraction)")
    return best


def check_without_data(recipe: Recipe) -> dict[str, Any]:
    """Checks what can be checked of a recipe before there is data: the model and its options, the optimizer's rules by
    parameter name, the schedule, the measure.

    Returns:
      The model's name, parameters and input, the task, epochs (null where steps count), steps (null where epochs
      count) and batch size.

    Raises:
      RequestError: something does not fit; one line that names the recipe's key.
    """
    train, kind = recipe.train, task_kind(recipe.task.name)
    images = train.batch_size if isinstance(train.batch_size, int) else recipe.optimizer.accumulate
    if images % recipe.optimizer.accumulate:
        raise RequestError(
            f"train.batch_size={train.batch_size} does not divide evenly into "
            f"optimizer.accumulate={recipe.optimizer.accumulate} parts"
        )
    recipe = with_channels(recipe)
    with constructing(recipe.model.name, recipe.model.options):
        model = create_model(recipe.model.name, **recipe.model.options)
        spec = _input_spec(recipe, model)
        shapes = variable_shapes(model, spec.size, spec.channels)["params"]
    check_best(recipe.validate.best, kind.measures, kind.best)
    # Enough steps that rounding to whole ones hides nothing.
    sizes = {"batch_size": images, "steps_per_epoch": 1000, "epochs": train.epochs}
    if train.batch_size != AUTO or recipe.optimizer.lr_base_batch is None:  # the peak depends on a size not known yet
        make_schedule(recipe.schedule, recipe.optimizer, **sizes, steps=train.steps)
    make_optimizer(recipe.optimizer, shapes, model)
    return {
        "model": recipe.model.name,
        "parameters": _count(shapes),
        "input": [*spec.size, spec.channels],
        "task": recipe.task.name,
        "epochs": train.epochs if train.steps is None else None,
        "steps": train.steps,
        "batch_size": train.batch_size,
    }


@contextmanager
def constructing(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Looks at the model's options before they cost anything, and names them where no model can be built from them."""
    for option, value in options.items():
        try:
            check_option(option, value)
        except RequestError as error:
            raise RequestError(f"model.{error}") from None
    try:
        yield
    except RequestError:
        raise
    except _NOT_BUILT as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"model.options: no {name} can be built from them ({reason})") from None


def _with_teacher(task: Task, recipe: Recipe, spec: InputSpec) -> Any:
    settings = recipe.distill
    if settings.teacher is None:
        return task
    return Distilled(task, load_teacher(settings.teacher, settings.weights, task.labels, spec), settings)


def open_splits(recipe: Recipe, *, without_data: bool = False) -> Splits:
    """The recipe's data, each file of it listed or read once; with folds, the first where none is named.

    Raises RequestError, WorkError.
    """
    data, kind = recipe.data, task_kind(recipe.task.name)
    if data.dir is None and without_data:
        return kind.declared(data.declared)
    if data.dir is None:
        raise RequestError("data.dir is not set: give --data-dir FOLDER (or digits)")
    seed = recipe.train.seed
    options: dict[str, Any] = {"seed": seed, "options": recipe.task, "root": data.root}
    if data.folds is not None:
        whole = kind.open(data.dir, "train", val_fraction=0.0, **options)
        fold = Fold(data.folds, data.fold or 1, data.folds_by, getattr(recipe.task, "path_column", None))
        train, val = cut(whole, fold, seed)
    else:
        options["val_fraction"] = data.val_fraction
        with read_once():
            train, val = kind.open(data.dir, "train", **options), kind.open(data.dir, "val", **options)
    return (train if data.subset is None else subset(train, data.subset, seed)), val


def _count(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def describe(experiment: Experiment) -> dict[str, Any]:
    """What a run would do, without doing it: sizes, steps, and the learning rate.

    "learning_rate" has the rate at a few steps, "curve" at `CURVE_POINTS` evenly spaced ones.
    """
    total, per_epoch = experiment.length.total, experiment.steps_per_epoch
    warmup = round(warmup_length(experiment.recipe.schedule, per_epoch))
    points = sorted({0, min(warmup, total - 1), total // 2, total - 1})
    curve = np.linspace(0, total - 1, CURVE_POINTS).round().astype(np.int32)
    return {
        "model": experiment.recipe.model.name,
        "parameters": _count(experiment.shapes["params"]),
        "input": [*experiment.spec.size, experiment.spec.channels],
        **experiment.task.facts(),
        "train_images": len(experiment.train_source),
        "val_images": len(experiment.val_source),
        "steps_per_epoch": per_epoch,
        "epochs": round(experiment.length.epochs(total), 2),
        "steps": total,
        "samples": total * experiment.recipe.train.images_per_step,
        "devices": experiment.mesh.size,
        "learning_rate": {step: float(experiment.schedule(jnp.int32(step))) for step in points},
        "curve": [float(rate) for rate in experiment.schedule(curve)],
    }


def save_best(folder: Path, experiment: Experiment, variables: Variables, record: Mapping[str, Any]) -> None:
    """Writes weights and everything that is needed to use them alone, in place of what the folder held.

    Args:
      variables: the model's, whole NumPy arrays.
    """
    numbers = {name: record[name] for name in ("metrics", "step", "epoch")}
    chosen = experiment.task.validated(record["metrics"]).artifact_options()
    artifact = replace(experiment.artifact, **numbers, task_options=chosen)

    def fill(new: Path) -> None:
        save_weights(new / WEIGHTS, variables, experiment.model)
        write_artifact(new, replace(artifact, weights_digest=file_digest(new / WEIGHTS)))

    replace_folder(folder, fill)


def _input_spec(recipe: Recipe, model: Any) -> InputSpec:
    spec = input_spec(recipe.model.name, model)
    changes = {
        name: value
        for name in ("size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "pixels")
        if (value := getattr(recipe.data, name)) is not None
    }
    if recipe.data.crop_mode in ("pad", "squash"):
        changes.setdefault("crop_pct", 1.0)  # these are chosen to see the whole picture
    for name in [name for name in ("mean", "std") if name in changes]:
        if len(changes[name]) == 1:
            changes[name] *= spec.channels
        if len(changes[name]) * spec.pictures == spec.channels:
            changes[name] *= spec.pictures
        if len(changes[name]) != spec.channels:
            raise RequestError(f"data.{name}={list(changes[name])}: the model takes {spec.channels} channels")
    spec = replace(spec, **changes)
    check_pixels(recipe, spec)
    return spec


def _check_outputs(model: ImageModel, name: str, spec: InputSpec, task: Task) -> None:
    """Raises RequestError unless the model gives what the task reads."""
    if model.usual_task not in (DEFAULT, task.name):
        raise RequestError(f"model.name={name} is a model of the task {model.usual_task}, and task.name={task.name}")
    if task.method is not None or model.dense:  # `model_options` has settled the others
        task.check_outputs(_output_shape(model, spec, task.method))


def _output_shape(model: ImageModel, spec: InputSpec, method: str | None) -> tuple[int, ...]:
    """The shape of one picture's outputs, as the task reads them."""
    images = jax.ShapeDtypeStruct((1, *spec.size, spec.channels), jnp.float32)
    shapes = variable_shapes(model, spec.size, spec.channels)
    try:
        found = jax.eval_shape(lambda variables, images: model.apply(variables, images, method=method), shapes, images)
    except AttributeError:  # the model has no such method
        found = jax.eval_shape(model.apply, shapes, images)
    return tuple(found.shape[1:])
