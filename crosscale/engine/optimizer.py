"""Optimizers and learning-rate schedules from their settings, with rules by parameter name."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from crosscale.contracts import Array
from crosscale.engine.layer_decay import Layered, counted_layers, layer_scales
from crosscale.engine.settings import OptimizerSettings, ScheduleSettings
from crosscale.errors import RequestError
from crosscale.trees import flatten, match_first, select

Schedule = Callable[[Array], Array]  # step -> learning rate


def make_schedule(
    schedule: ScheduleSettings,
    optimizer: OptimizerSettings,
    *,
    batch_size: int,
    steps_per_epoch: int,
    epochs: int,
    steps: int | None = None,
) -> Schedule:
    """Learning rate of a step, counted from 0.

    A linear warm-up from `warmup_lr`, then lr (constant), or the power of what is left of the run that the settings
    name (poly), or lr that drops at some epochs (steps; for both the warm-up is a factor, as in the released recipes
    of segmentation and detection), or
    min_lr + (lr - min_lr) (1 + cos(pi t)) / 2 with t from 0 to 1 over the rest of the run (cosine;
    Loshchilov and Hutter, 2017, eq. 5, with `cycles` periods of equal length), or over all of the run where
    `warmup_prefix` is false.

    Args:
      epochs: length of the run.
      steps: the same in steps, where the run is counted in these.

    Raises:
      RequestError: the warm-up is longer than the run, or the learning rates are in the wrong order.
    """
    peak = optimizer.lr
    if optimizer.lr_base_batch is not None:
        peak *= batch_size / optimizer.lr_base_batch
    total = epochs * steps_per_epoch if steps is None else steps
    run = f"train.epochs={epochs}" if steps is None else f"train.steps={steps}"
    warmup = warmup_length(schedule, steps_per_epoch)
    if warmup > total:
        raise RequestError(f"schedule.{_warmup_key(schedule)} is longer than {run}")
    if warmup and schedule.warmup_lr > peak:
        raise RequestError(f"schedule.warmup_lr={schedule.warmup_lr} is above the learning rate {peak:g}")
    first = warmup if schedule.warmup_prefix else 0.0  # step of the cosine
    length = _cycle_length(schedule, first, total, steps_per_epoch, run)
    cosine, poly, drops = (schedule.name == name for name in ("cosine", "poly", "steps"))
    if (cosine or poly) and schedule.min_lr > peak:
        raise RequestError(f"schedule.min_lr={schedule.min_lr} is above the learning rate {peak:g}")

    def learning_rate(step: Array) -> Array:
        at = jnp.asarray(step, jnp.float32)
        if schedule.per == "epoch":
            at = jnp.floor(at / steps_per_epoch) * steps_per_epoch
        if poly or drops:
            rate = (
                _dropped(schedule, peak, at / steps_per_epoch) if drops else _poly(schedule, peak, at / max(total, 1))
            )
            lowest = schedule.warmup_lr / peak
            return rate * jnp.where(at < warmup, lowest + (1.0 - lowest) * at / max(warmup, 1.0), 1.0)
        rising = schedule.warmup_lr + (peak - schedule.warmup_lr) * at / max(warmup, 1.0)
        cycle = jnp.maximum(at - first, 0.0) / length
        t = jnp.where(cycle < schedule.cycles, cycle - jnp.floor(cycle), 1.0)
        low = schedule.min_lr if cosine else peak
        falling = low + (peak - low) * 0.5 * (1.0 + jnp.cos(jnp.pi * t))
        return jnp.where(at < warmup, rising, falling)

    return learning_rate


def _poly(schedule: ScheduleSettings, peak: float, done: Array) -> Array:
    """The rate when this share of the run is done."""
    return schedule.min_lr + (peak - schedule.min_lr) * jnp.maximum(1.0 - done, 0.0) ** schedule.power


def _dropped(schedule: ScheduleSettings, peak: float, epoch: Array) -> Array:
    """The rate after the drops up to an epoch."""
    passed = (jnp.asarray(schedule.drop_epochs, jnp.float32) <= jnp.asarray(epoch)[..., None]).sum(-1)
    return peak * schedule.drop_factor**passed


def warmup_length(schedule: ScheduleSettings, steps_per_epoch: int) -> float:
    """Steps of the warm-up, not necessarily whole."""
    return schedule.warmup_epochs * steps_per_epoch if schedule.warmup_steps is None else schedule.warmup_steps


def _cycle_length(schedule: ScheduleSettings, first: float, total: int, steps_per_epoch: int, run: str) -> float:
    """Steps of one cosine that begins at step `first`. Raises RequestError where they do not fit into the run."""
    if schedule.decay_epochs is None:
        return max((total - first) / schedule.cycles, 1.0)
    length = schedule.decay_epochs * steps_per_epoch
    if first + schedule.cycles * length > total + 0.5:
        before = f"a warm-up of {first / steps_per_epoch:g} epochs and " if first else ""
        raise RequestError(
            f"schedule: {before}{schedule.cycles} x decay_epochs={schedule.decay_epochs:g} are longer than {run}"
        )
    return length


def _warmup_key(schedule: ScheduleSettings) -> str:
    if schedule.warmup_steps is None:
        return f"warmup_epochs={schedule.warmup_epochs:g}"
    return f"warmup_steps={schedule.warmup_steps}"


def make_optimizer(
    settings: OptimizerSettings, params: Any, model: Layered | None = None
) -> optax.GradientTransformation:
    """Gradients -> the direction of descent: the update is its product with minus the learning rate.

    The learning rate stays outside, because it follows the step number and a step that was left out (see
    `on_nonfinite`) must not shift it.

    Args:
      model: says what its layers are, for `layer_decay`.

    Raises:
      RequestError: a pattern of `frozen` or `lr_scales` that matches no parameter, or `layer_decay` for a model that
        does not say what its layers are.
    """
    names = list(flatten(params))
    _check_patterns("optimizer.frozen", settings.frozen, names)
    _check_patterns("optimizer.lr_scales", [pattern for pattern, _ in settings.lr_scales], names)

    def decays(tree: Any) -> Any:
        rules = [(pattern, False) for pattern in settings.no_decay]
        return jax.tree_util.tree_map_with_path(lambda path, _: match_first(_name(path), rules, True), tree)

    decay = optax.add_decayed_weights(settings.weight_decay, mask=decays)
    adam = optax.scale_by_adam(*settings.betas, eps=settings.eps)
    parts: list[optax.GradientTransformation] = []
    if settings.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    match settings.name:
        case "adamw":
            parts += [adam, decay]
        case "lamb":
            # As timm's: what does not decay, biases and norms mostly, keeps Adam's step.
            parts += [adam, decay, optax.masked(optax.scale_by_trust_ratio(), decays)]
        case "sgd":
            parts.append(decay)
            if settings.momentum:
                parts.append(optax.trace(settings.momentum, settings.nesterov))
    if settings.lr_scales:
        parts.append(_scale_by_name(settings.lr_scales))
    if settings.layer_decay is not None:
        if model is None:
            raise RequestError("optimizer.layer_decay: this model does not say what its layers are")
        factors = layer_scales(names, settings.layer_decay, counted_layers(model, settings.layer_rule))
        parts.append(_scale_by_name([(re.escape(name), factor) for name, factor in factors.items()]))
    moving = optax.chain(*parts)
    if not settings.frozen:
        return moving
    labels = select(params, [(pattern, "frozen") for pattern in settings.frozen], "moving")
    # Frozen parameters have no moments and do not count in the clipped norm.
    return optax.partition({"moving": moving, "frozen": optax.set_to_zero()}, labels)


def _scale_by_name(rules: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    def update(updates: Any, params: Any = None) -> Any:
        def scale(path: Any, update: Array) -> Array:
            return update * match_first(_name(path), rules, 1.0)

        return jax.tree_util.tree_map_with_path(scale, updates)

    return optax.stateless(update)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_patterns(key: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise RequestError(
                f"{key}: '{pattern}' matches no parameter; names are such as '{names[0]}' and '{names[-1]}'"
            )
