"""The recipe of a command that names its data and no recipe: what fits the data, the weights and the machine."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from crosscale.engine.length import run_length
from crosscale.engine.settings import AUTO
from crosscale.measure import count_costs
from crosscale.models.registry import check_name, create_model, input_spec
from crosscale.pretrained.finetuning import fitting_sizes, model_of, options_text
from crosscale.recipe import Recipe, load
from crosscale.runs.batch_size import with_batch_size
from crosscale.runs.experiment import Splits, constructing, open_splits
from crosscale.runtime import shown_duration

# What processors alone train in reasonable time: a quarter of the preset's multiply-accumulates.
ON_PROCESSORS = {"model.name": "crossvit_tiny_240", "model.options.img_size": "[120, 112]"}
# A training step reaches this share of the speed of one large matrix product: its products are small, and much of it is
# no product.
SHARE = 0.3


class Start(NamedTuple):
    """A chosen recipe.

    Attributes:
      name: of the recipe, which names the run's folder.
      splits: the data, where it had to be opened.
      lines: that say what was chosen.
    """

    recipe: Recipe
    name: str
    splits: Splits | None
    lines: tuple[str, ...]


def from_data(given: dict[str, str]) -> Start:
    """The recipe "photos" for the data alone: sizes by the number of pictures, the model by the machine.

    Args:
      given: dotted keys that the user gave, data.dir among them; they stay as they are.

    Raises RequestError.
    """
    chosen = {} if "model.name" in given else dict(_model_for_machine())
    recipe, splits = _sized("photos", chosen, given)
    assert splits is not None
    train, optimizer, batch = recipe.train, recipe.optimizer, recipe.train.images_per_step
    with constructing(recipe.model.name, recipe.model.options):
        model = create_model(recipe.model.name, **recipe.model.options)
        spec = input_spec(recipe.model.name, model)
        costs = count_costs(model, spec)
    size = " x ".join(map(str, recipe.data.size or spec.size))
    why = "as given" if "model.name" in given else _machine()
    examples = len(splits[0])
    length = run_length(train, max(1, examples // batch))
    steps = length.total
    products = 3 * costs.macs * batch * steps  # forward, and twice that backward
    seconds = products / (SHARE * _products_per_second() * jax.device_count())
    lines = (
        f"model: {recipe.model.name} at {size} pixels ({why}), from scratch; --pretrained begins from published "
        "weights, which few pictures need",
        f"data: {examples:,} pictures to train on, {len(splits[1]):,} held out: batch {batch}, "
        f"{length.epochs(steps):.4g} epochs, {steps:,} steps; about {shown_duration(seconds)} after the "
        "compilation, which takes about a minute",
        f"recipe 'photos': {optimizer.name} at {optimizer.lr:g} per {optimizer.lr_base_batch} pictures, mild "
        "augmentation; recipe.yaml in the run folder has the rest",
    )
    return Start(recipe, "photos", splits, lines)


def from_weights(given: dict[str, str]) -> Start:
    """The recipe "finetune" for the weights' model, at sizes that fit the data.

    Args:
      given: dotted keys that the user gave, model.pretrained among them; they stay as they are.

    Raises RequestError.
    """
    chosen: dict[str, str] = {}
    if "model.name" not in given and given["model.pretrained"] != "true":
        found = model_of(given["model.pretrained"])
        chosen = {"model.name": found["name"], **options_text(found["options"])}
    recipe, splits = _sized("finetune", chosen, given)
    train, optimizer = recipe.train, recipe.optimizer
    line = (
        f"fine-tuning {recipe.model.name} with the recipe 'finetune': {train.epochs} epochs, batch {train.batch_size}, "
        f"{optimizer.name} at {optimizer.lr:g} per {optimizer.lr_base_batch} images, layer decay "
        f"{optimizer.layer_decay}, weight decay {optimizer.weight_decay}; recipe.yaml in the run folder has the rest"
    )
    return Start(recipe, "finetune", splits, (line,))


def _sized(name: str, chosen: dict[str, str], given: dict[str, str]) -> tuple[Recipe, Splits | None]:
    """The shipped recipe with batch, epochs and lines of the log that fit its data, which this opens."""
    recipe = load(name, {**chosen, **given})
    check_name(recipe.model.name)  # before a million files are listed
    if recipe.data.dir is None:
        return recipe, None
    splits = open_splits(recipe)
    recipe, _ = with_batch_size(recipe, splits)
    sizes = fitting_sizes(len(splits[0]), jax.device_count(), recipe.train.images_per_step)
    if given.get("train.batch_size") == AUTO:  # it stays as it was found
        given = {**given, "train.batch_size": str(recipe.train.images_per_step)}
    if given.get("train.steps", "null") != "null":
        del sizes["epochs"]
    fitted = {f"train.{key}": str(value) for key, value in sizes.items()}
    if "train.epochs" in given:  # fewer than the recipe's warm-up may be asked for, as for a first look
        fitted["schedule.warmup_epochs"] = str(min(recipe.schedule.warmup_epochs, recipe.train.epochs / 5))
    return load(name, {**chosen, **fitted, **given}), splits


def _model_for_machine() -> dict[str, str]:
    return ON_PROCESSORS if jax.default_backend() == "cpu" else {}


def _machine() -> str:
    if jax.default_backend() == "cpu":
        return "what processors alone train in reasonable time"
    return f"for {jax.device_count()} x {jax.devices()[0].device_kind}"


def _products_per_second() -> float:
    """Multiply-accumulates per second of one matrix product, which is measured in some milliseconds."""
    side = 512 if jax.default_backend() == "cpu" else 4096
    multiply = jax.jit(lambda a: a @ a)
    matrix = multiply(jnp.ones((side, side))).block_until_ready()
    best = min(_timed(lambda: multiply(matrix).block_until_ready()) for _ in range(5))
    return float(side**3) / best


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
