"""One step of training and one of validation, compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from crosscale.contracts import Array, InputSpec, Variables, as_variables
from crosscale.engine.compiler import CompilerOptions
from crosscale.engine.ema import Ramp, update_ema
from crosscale.engine.forward import inferred, normalize, training_forward
from crosscale.engine.joint import begun_together
from crosscale.engine.loss_scale import Scale, lowest, settled, value_and_grad
from crosscale.engine.optimizer import Schedule
from crosscale.engine.sharding import replicated, split_batch
from crosscale.engine.state import TrainState, step_key
from crosscale.layers.kernels import squared_norms
from crosscale.tasks.metric import DeviceBatch, State
from crosscale.tasks.task import Losses, Task
from crosscale.trees import stop_gradients

TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[Variables, DeviceBatch], tuple[State, dict[str, Array]]]
Gradient = tuple[tuple[Losses, Array], Any]  # the summed losses and their weight; the gradient
GradientOf = Callable[..., tuple[Gradient, Any, Scale]]  # the second are the batch norms' new statistics


def make_train_step(
    model: nn.Module,
    spec: InputSpec,
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    *,
    seed: int,
    accumulate: int = 1,
    ema_decay: float | None = None,
    ema_ramp: Ramp = "ratio",
    frozen: Sequence[str] = (),
    layout: TrainState | None = None,
    compiler_options: CompilerOptions | None = None,
) -> TrainStep:
    """Compiles a training step.

    The returned function takes (and gives up) the state and a batch, and returns the new state and
    scalars: "loss" (mean over the examples of weight > 0) and, of a loss of several parts, "loss_<part>" of each,
    "weight" (the number of these examples), "skipped" (that of the others), "grad_norm", "lr", "finite" (bool), and
    the vector "bad" (bool, one per parameter in the order of `parameter_names`). A step whose loss or gradient is not
    finite changes nothing but the step number, and the loss scale of a state that has one: see `settled`, whose
    scalars are then in the report too.

    Args:
      accumulate: parts in which the batch is computed, one after another.
      ema_decay: of the moving average; None where the state keeps none.
      ema_ramp: how it begins; see `update_ema`.
      frozen: patterns of the parameters that stay as they are; their gradient is zero, and nothing is computed for it.
      layout: the shardings of the state's arrays; None for whole on every device.
      compiler_options: XLA's, of this program; None for the defaults.
    """
    whole, rows = replicated(mesh), split_batch(mesh)
    states: Any = whole if layout is None else layout
    parameters = whole if layout is None else layout.params

    gradient = _gradient(model, spec, task, parameters, frozen)

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, dict[str, Array]]:
        key = step_key(seed, state.step)
        summed, batch_stats, scale = _accumulated(gradient, state, batch, key, accumulate)
        (losses, weight), grads = summed
        # A factor, unlike a division, is computed again wherever a gradient is read, without a pass of its own.
        share = 1.0 / jnp.maximum(weight, 1.0)
        losses, grads = jax.tree.map(lambda value: value * share, (losses, grads))
        lr = schedule(state.step)
        report = _report(losses, grads)
        report |= {"weight": weight, "skipped": (batch["weight"] == 0).sum(), "lr": lr}
        scale, told = settled(state.loss_scale, scale, report["loss"])
        report |= told
        new = _updated(state, grads, batch_stats, optimizer, lr, ema_decay, ema_ramp)
        # A batch in which no picture decoded teaches nothing; not even the decay may act on it.
        keep = report["finite"] & (weight > 0)
        kept: TrainState = jax.tree.map(lambda a, b: jax.lax.select(keep, a, b), new, state)
        return kept.replace(step=state.step + 1, loss_scale=scale), report

    places: Any = {"in_shardings": (states, rows), "out_shardings": (states, whole)}
    compiled = jax.jit(train_step, donate_argnums=0, **places, compiler_options=compiler_options)
    return begun_together(compiled, mesh)


def _gradient(model: nn.Module, spec: InputSpec, task: Task, layout: Any, frozen: Sequence[str]) -> GradientOf:
    """(params, batch_stats, batch, key, loss scale) -> the summed losses, their weight and the gradient of their sum,
    laid out as told, the new batch_stats and the new scale."""

    def summed_loss(
        params: Any, batch_stats: Any, batch: DeviceBatch, key: Array
    ) -> tuple[Array, tuple[Losses, Array, Any]]:
        augment_key, dropout_key = jax.random.split(key)
        images, targets = task.augment(augment_key, normalize(batch["image"], spec), batch)
        learnt = stop_gradients(params, frozen)
        variables, told = as_variables(learnt, batch_stats), task.training_options(targets)
        outputs, new = training_forward(model, variables, images, spec, dropout_key, **told)
        losses, weight = task.loss(outputs, targets, batch["weight"])
        return sum(losses.values(), jnp.float32(0)), (losses, weight, new)

    def gradient(
        params: Any, batch_stats: Any, batch: DeviceBatch, key: Array, scale: Scale
    ) -> tuple[Gradient, Any, Scale]:
        differentiate = value_and_grad(summed_loss, scale, len(batch["weight"]))
        (losses, weight, new), grads, scale = differentiate(params, batch_stats, batch, key)
        # Summed over the devices into the parts that the optimizer works on, not whole into each device.
        return ((losses, weight), jax.lax.with_sharding_constraint(grads, layout)), new, scale

    return gradient


def make_eval_step(
    model: nn.Module, spec: InputSpec, task: Task, mesh: Mesh, layout: Any = None, *, collect: bool = False
) -> EvalStep:
    """Compiles a validation step: (variables, batch) -> the state of the task's metric for this batch, and rows.

    Args:
      layout: the shardings of the variables; None for whole on every device.
      collect: whether the rows that the metric collects of each example are wanted even where it does without.
    """
    metric = task.metric
    collect = collect or metric.collects

    def eval_step(variables: Variables, batch: DeviceBatch) -> tuple[State, dict[str, Array]]:
        outputs = inferred(model, variables, batch["image"], spec, task, batch.get("size"))
        if collect:
            return metric.update_and_collect(metric.init(), outputs, batch)
        return metric.update(metric.init(), outputs, batch), {}

    whole, rows = replicated(mesh), split_batch(mesh)
    places: Any = {"in_shardings": (whole if layout is None else layout, rows), "out_shardings": (whole, rows)}
    return begun_together(jax.jit(eval_step, **places), mesh)


def parameter_names(params: Any) -> list[str]:
    """ "a/b/c" names in the order of the report's "bad"."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def _report(losses: Losses, grads: Any) -> dict[str, Array]:
    """The step's scalars that follow from the losses and the gradient, "finite" and "bad" among them."""
    loss = sum(losses.values(), jnp.float32(0))
    report = {"loss": loss, **_health(grads)}
    if len(losses) > 1:
        report |= {f"loss_{name}": value for name, value in losses.items()}
    report["finite"] = jnp.isfinite(loss) & ~report["bad"].any()
    return report


def _health(grads: Any) -> dict[str, Array]:
    """ "grad_norm", and "bad": in which leaves a number is not finite, or the sum of squares beyond float32's range."""
    squares = squared_norms(jax.tree.leaves(grads))
    return {"grad_norm": jnp.sqrt(squares.sum()), "bad": ~jnp.isfinite(squares)}


def _updated(
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    lr: Array,
    ema_decay: float | None,
    ema_ramp: Ramp,
) -> TrainState:
    """The state after one step of the optimizer; its step number is left to the caller."""
    direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: -lr * update, direction)
    params = optax.apply_updates(state.params, updates)
    averages = state.ema_params, state.ema_batch_stats
    if ema_decay is not None:
        averages = update_ema(averages, (params, batch_stats), state.step, ema_decay, ema_ramp)
    new: TrainState = state.replace(
        params=params,
        opt_state=opt_state,
        ema_params=averages[0],
        batch_stats=batch_stats,
        ema_batch_stats=averages[1],
    )
    return new


def _accumulated(
    gradient: GradientOf, state: TrainState, batch: DeviceBatch, key: Array, parts: int
) -> tuple[Gradient, Any, Scale]:
    """Summed losses, weight and gradient of a batch, computed in `parts` equal parts; the batch norms' statistics after
    the last part; the new loss scale."""
    if parts == 1:
        return gradient(state.params, state.batch_stats, batch, key, state.loss_scale)
    # Example i goes to part i % parts, so that each device's share splits without moving anything.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), dict(batch))
    keys = jax.random.split(key, parts)

    def add_part(so_far: Any, part: tuple[DeviceBatch, Array]) -> tuple[Any, Scale]:
        total, batch_stats = so_far
        new, batch_stats, scale = gradient(state.params, batch_stats, *part, state.loss_scale)
        return (jax.tree.map(jnp.add, total, new), batch_stats), scale

    first = jax.tree.map(lambda x: x[0], split)
    shapes, *_ = jax.eval_shape(gradient, state.params, state.batch_stats, first, keys[0], state.loss_scale)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, batch_stats), scales = jax.lax.scan(add_part, (zeros, state.batch_stats), (split, keys))
    return total, batch_stats, lowest(scales)
