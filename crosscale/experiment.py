"""Recipe -> experiment: the data, the model, the task and the schedule, checked against each other."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from crosscale.contracts import InputSpec, Source, Variables
from crosscale.data import open_source, steps_per_epoch
from crosscale.data.declared import DeclaredSource
from crosscale.data.sources import HUB
from crosscale.engine.forward import forward
from crosscale.engine.optimizer import Schedule, make_optimizer, make_schedule
from crosscale.engine.run_folder import replace_folder
from crosscale.engine.sharding import bytes_per_device, check_divides, make_mesh, put_whole, split_parameters
from crosscale.engine.state import TrainState
from crosscale.errors import RequestError
from crosscale.models.model import ImageModel
from crosscale.models.registry import create_model, input_spec
from crosscale.pretrained import fetch_weights, load_weights, save_weights
from crosscale.pretrained.teacher import load_teacher
from crosscale.recipe import DataSettings, Recipe
from crosscale.tasks.classification import Classification
from crosscale.tasks.distillation import Distillation

CURVE_POINTS = 60


@dataclass(frozen=True)
class Experiment:
    """A recipe made concrete.

    Attributes:
      recipe: with the class names and the data's absolute path filled in.
      options: the model's constructor fields as JSON holds them, without num_classes.
      total_steps: of the whole run.
    """

    recipe: Recipe
    model: ImageModel
    options: dict[str, Any]
    spec: InputSpec
    task: Classification
    train_source: Source
    val_source: Source
    schedule: Schedule
    steps_per_epoch: int
    mesh: Mesh

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.train_source.classes)

    @cached_property
    def parameter_shapes(self) -> Any:
        """The parameters as `jax.ShapeDtypeStruct`s, without computing any."""
        return jax.eval_shape(self.model.init, jax.random.key(0), _blank(self.spec))["params"]

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.recipe.train.epochs


def build(recipe: Recipe, *, without_data: bool = False) -> Experiment:
    """Opens the data, builds the model and checks that everything fits.

    Args:
      without_data: where data.dir is not set, count with the sizes that the recipe declares; the result can be
        described but not trained.

    Raises:
      RequestError: something is missing or does not fit; one line that names the recipe's key.
    """
    data, train = recipe.data, recipe.train
    train_source, val_source = _declared(data) if data.dir is None and without_data else _open(recipe)
    classes = tuple(train_source.classes)
    if data.dir is not None and data.classes is not None and data.classes != classes:
        raise RequestError(f"data.classes: {first_difference(data.classes, classes)} in {data.dir}")
    options = dict(recipe.model.options)
    given = options.pop("num_classes", len(classes))
    if given != len(classes):
        raise RequestError(f"model.options.num_classes={given}, but {data.dir} has {len(classes)} classes")
    if train.dtype != "float32":
        options["dtype"] = train.dtype
    remat = {"remat": True} if train.remat == "blocks" else {}
    model = create_model(recipe.model.name, num_classes=len(classes), **{**options, **remat})
    spec = _input_spec(recipe, model)
    mesh = make_mesh(recipe.mesh)
    check_divides("train.batch_size", train.batch_size, recipe.optimizer.accumulate, mesh)
    check_divides("validate.batch_size", recipe.validate.batch_size, 1, mesh)
    per_epoch = steps_per_epoch(train_source, train.batch_size)
    schedule = make_schedule(
        recipe.schedule,
        recipe.optimizer,
        batch_size=train.batch_size,
        steps_per_epoch=per_epoch,
        epochs=train.epochs,
    )
    if data.dir is not None:
        kept = data.dir == "digits" or data.dir.startswith(HUB)
        where = data.dir if kept else str(Path(data.dir).expanduser().resolve())
        recipe = replace(recipe, data=replace(data, dir=where, classes=classes))
    return Experiment(
        recipe=recipe,
        model=model,
        options=options,
        spec=spec,
        task=_task(recipe, classes, spec),
        train_source=train_source,
        val_source=val_source,
        schedule=schedule,
        steps_per_epoch=per_epoch,
        mesh=mesh,
    )


def _task(recipe: Recipe, classes: tuple[str, ...], spec: InputSpec) -> Classification:
    smoothing, settings = recipe.train.label_smoothing, recipe.distill
    if settings.teacher is None:
        return Classification(len(classes), smoothing, recipe.augment)
    teacher = load_teacher(settings.teacher, settings.weights, classes, spec)
    return Distillation(len(classes), smoothing, recipe.augment, teacher, settings)


def _declared(data: DataSettings) -> tuple[Source, Source]:
    if data.num_classes is None or data.train_images is None or data.val_images is None:
        raise RequestError(
            "data.dir is not set: give --data-dir FOLDER (or digits), or for a dry run data.train_images, "
            "data.val_images and data.num_classes"
        )
    classes = data.classes or tuple(str(label) for label in range(data.num_classes))
    return DeclaredSource(classes, data.train_images), DeclaredSource(classes, data.val_images)


def _open(recipe: Recipe) -> tuple[Source, Source]:
    data = recipe.data
    if data.dir is None:
        raise RequestError("data.dir is not set: give --data-dir FOLDER (or digits)")
    options: dict[str, Any] = {"val_fraction": data.val_fraction, "seed": recipe.train.seed}
    return open_source(data.dir, "train", **options), open_source(data.dir, "val", **options)


def estimate_memory(experiment: Experiment) -> dict[str, int]:
    """Bytes that training needs on each device, from shapes alone.

    "parameters", "gradients", "optimizer" and "ema" are exact, of the device's parts. "activations" is what the
    backward pass keeps of one part of the batch as written, before the compiler fuses and reuses: an upper bound,
    mostly.
    """
    recipe, spec, model = experiment.recipe, experiment.spec, experiment.model
    per_device = recipe.train.batch_size // experiment.mesh.size
    images = jax.ShapeDtypeStruct((1, *spec.size, spec.channels), jnp.uint8)  # type: ignore[no-untyped-call]
    params = experiment.parameter_shapes
    slots = jax.eval_shape(make_optimizer(recipe.optimizer, params, model.layer_of).init, params)

    def backward(params: Any, images: Any) -> Any:
        def run(params: Any) -> Any:
            return forward(model, {"params": params}, images, spec, train=True, rng=jax.random.key(0))

        return jax.vjp(run, params)[1]

    # What does not grow with the batch are the parameters and what is made of them alone.
    two = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)  # type: ignore[no-untyped-call]
    kept = _bytes(jax.eval_shape(backward, params, two)) - _bytes(jax.eval_shape(backward, params, images))
    one_part = per_device // recipe.optimizer.accumulate
    parameters = bytes_per_device(params, split_parameters(params, experiment.mesh))
    return {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": bytes_per_device(slots, split_parameters(slots, experiment.mesh)),
        "ema": parameters if recipe.train.ema_decay is not None else 0,
        "batch": per_device * (_bytes(images) + 4 * len(experiment.classes)),
        "activations": kept * one_part,
    }


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def describe(experiment: Experiment) -> dict[str, Any]:
    """What a run would do, without doing it: sizes, steps, and the learning rate.

    "learning_rate" has the rate at a few steps, "curve" at `CURVE_POINTS` evenly spaced ones.
    """
    total, per_epoch = experiment.total_steps, experiment.steps_per_epoch
    warmup = round(experiment.recipe.schedule.warmup_epochs * per_epoch)
    points = sorted({0, min(warmup, total - 1), total // 2, total - 1})
    curve = np.linspace(0, total - 1, CURVE_POINTS).round().astype(np.int32)
    return {
        "model": experiment.recipe.model.name,
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(experiment.parameter_shapes)),
        "input": [*experiment.spec.size, experiment.spec.channels],
        "classes": len(experiment.classes),
        "train_images": len(experiment.train_source),
        "val_images": len(experiment.val_source),
        "steps_per_epoch": per_epoch,
        "epochs": experiment.recipe.train.epochs,
        "steps": total,
        "samples": total * experiment.recipe.train.batch_size,
        "devices": experiment.mesh.size,
        "learning_rate": {step: float(experiment.schedule(jnp.int32(step))) for step in points},
        "curve": [float(rate) for rate in experiment.schedule(curve)],
    }


def abstract_state(experiment: Experiment) -> tuple[TrainState, optax.GradientTransformation]:
    """Shapes and types of the state, without computing it, and the optimizer.

    Raises:
      RequestError: a rule of the optimizer matches no parameter.
    """
    recipe = experiment.recipe
    shapes = jax.eval_shape(experiment.model.init, jax.random.key(0), _blank(experiment.spec))["params"]
    optimizer = make_optimizer(recipe.optimizer, shapes, experiment.model.layer_of)
    ema = recipe.train.ema_decay is not None
    return jax.eval_shape(lambda params: TrainState.create(params, optimizer, ema=ema), shapes), optimizer


def initial_state(experiment: Experiment, optimizer: optax.GradientTransformation, layout: TrainState) -> TrainState:
    """The state before the first step, on the devices as `layout` tells.

    Raises:
      RequestError: the pretrained weights do not fit.
    """
    recipe = experiment.recipe
    seed, ema = recipe.train.seed, recipe.train.ema_decay is not None
    pretrained = None
    if recipe.model.pretrained:
        pretrained = put_whole(_pretrained(experiment)["params"], layout.params)

    def create(params: Any) -> TrainState:
        if params is None:
            params = experiment.model.init(jax.random.key(seed), _blank(experiment.spec))["params"]
        return TrainState.create(params, optimizer, ema=ema)

    state: TrainState = jax.jit(create, out_shardings=layout)(pretrained)
    return state


def save_best(folder: Path, experiment: Experiment, params: Any, record: Mapping[str, Any]) -> None:
    """Writes weights and everything that is needed to use them alone, in the place of the folder's former.

    Args:
      params: whole NumPy arrays.
    """
    recipe = experiment.recipe
    config = {
        "model": recipe.model.name,
        "options": experiment.options,
        "num_classes": len(experiment.classes),
        "input_spec": asdict(experiment.spec),
        "classes": list(experiment.classes),
        "metrics": record["metrics"],
        "step": record["step"],
        "epoch": record["epoch"],
        "data": {
            "dir": recipe.data.dir,
            "val_fraction": recipe.data.val_fraction,
            "seed": recipe.train.seed,
            "batch_size": recipe.validate.batch_size,
        },
        "crosscale_version": package_version(),
    }

    def fill(new: Path) -> None:
        save_weights(new / "model.safetensors", {"params": params}, experiment.model)
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (new / "config.json").write_text(text + "\n", encoding="utf-8")

    replace_folder(folder, fill)


def package_version() -> str:
    """Of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("crosscale")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"


def _pretrained(experiment: Experiment) -> Variables:
    """The recipe's weights on the model; what does not carry over, such as another head, is made anew."""
    settings = experiment.recipe.model
    return load_weights(
        fetch_weights(settings.name) if settings.pretrained is True else str(settings.pretrained),
        experiment.model,
        adapt=True,
        only=settings.pretrained_only,
        classes=experiment.classes,
        seed=experiment.recipe.train.seed,
    )


def _input_spec(recipe: Recipe, model: Any) -> InputSpec:
    spec = input_spec(recipe.model.name, model)
    changes = {
        name: value
        for name in ("size", "mean", "std", "interpolation", "crop_pct")
        if (value := getattr(recipe.data, name)) is not None
    }
    for name in ("mean", "std"):
        if len(changes.get(name, ())) not in (0, spec.channels):
            raise RequestError(f"data.{name}={list(changes[name])}: the model takes {spec.channels} channels")
    return replace(spec, **changes)


def _blank(spec: InputSpec) -> Any:
    return jnp.zeros((1, *spec.size, spec.channels), jnp.float32)


def first_difference(wanted: tuple[str, ...], found: tuple[str, ...]) -> str:
    for name in wanted:
        if name not in found:
            return f"the class '{name}' is missing"
    for name in found:
        if name not in wanted:
            return f"there is a further class '{name}'"
    return "the classes stand in another order"
