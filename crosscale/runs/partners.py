"""Keys that mean nothing without another one: a run that is begun with them alone is refused, before it costs anything.

A run that goes on is not asked again: whatever it was begun with, it ends as it was begun.
"""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from crosscale.errors import RequestError
from crosscale.recipe import Recipe, recipe_keys
from crosscale.runs.experiment import Experiment

# key -> the key that decides about it, and the values of that with which it counts; () for any but null
_DECIDED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "optimizer.momentum": ("optimizer.name", ("sgd",)),
    "optimizer.nesterov": ("optimizer.name", ("sgd",)),
    "optimizer.betas": ("optimizer.name", ("adamw", "lamb")),
    "optimizer.eps": ("optimizer.name", ("adamw", "lamb")),
    "optimizer.layer_rule": ("optimizer.layer_decay", ()),
    "schedule.power": ("schedule.name", ("poly",)),
    "schedule.drop_factor": ("schedule.name", ("steps",)),
    "schedule.min_lr": ("schedule.name", ("cosine", "poly")),
    "schedule.decay_epochs": ("schedule.name", ("cosine",)),
    "schedule.cycles": ("schedule.name", ("cosine",)),
    "train.ema_ramp": ("train.ema_decay", ()),
}


def check_partners(recipe: Recipe) -> None:
    """Raises RequestError for what is said of a teacher or of pretrained weights where there are none."""
    distill = recipe.distill
    if distill.teacher is None:
        for key in fields(distill):
            if getattr(distill, key.name) != key.default:
                raise RequestError(f"distill.{key.name} is for a teacher; name one with distill.teacher")
    if recipe.model.pretrained_only and not recipe.model.pretrained:
        raise RequestError("model.pretrained_only is for pretrained weights; name them with model.pretrained")


def check_given(recipe: Recipe, given: Iterable[str]) -> None:
    """Raises RequestError for a key that was asked for and counts for nothing beside the recipe's others.

    A recipe's own keys may stand idle: `--schedule.name cosine` leaves its `schedule.power` where it is.
    """
    for key in given:
        if key not in _DECIDED_BY or _value(recipe, key) == recipe_keys()[key].default:
            continue
        other, values = _DECIDED_BY[key]
        found = _value(recipe, other)
        if (found not in values) if values else found is None:
            wanted = " or ".join(f"{other}={value}" for value in values) or f"a {other}"
            raise RequestError(f"{key} means nothing with {other}={_shown(found)}; it goes with {wanted}")


def check_validated(experiment: Experiment) -> None:
    """Raises RequestError where validations are to end the run, and nothing is held out."""
    patience = experiment.recipe.train.early_stop_epochs
    if patience is not None and not len(experiment.val_source):
        raise RequestError(
            f"train.early_stop_epochs={patience}: nothing is held out, so no validation could end the run "
            "(data.val_fraction); give --train.early_stop_epochs null"
        )


def _value(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
