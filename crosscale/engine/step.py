"""One step of training and one of validation, compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from crosscale.contracts import Array, InputSpec
from crosscale.engine.ema import update_ema
from crosscale.engine.forward import forward, normalize
from crosscale.engine.optimizer import Schedule
from crosscale.engine.sharding import replicated, split_batch
from crosscale.engine.state import TrainState, step_key
from crosscale.tasks.task import Metrics, Task

DeviceBatch = Mapping[str, Array]  # "image" (B, H, W, C) uint8, "label", "weight" (B,)
TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[Any, DeviceBatch], Metrics]


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
    layout: TrainState | None = None,
    compiler_options: dict[str, str | bool | int | float] | None = None,
) -> TrainStep:
    """Compiles a training step.

    The returned function takes (and gives up) the state and a batch, and returns the new state and
    scalars: "loss" (mean over the examples of weight > 0), "weight" (their number), "skipped" (that of the
    others), "grad_norm", "lr", "finite" (bool), and the vector "bad" (bool, one per parameter in the order of
    `parameter_names`). A step whose loss or gradient is not finite changes nothing but the step number.

    Args:
      accumulate: parts in which the batch is computed, one after another.
      ema_decay: of the moving average; None where the state keeps none.
      layout: the shardings of the state's arrays; None for whole on every device.
      compiler_options: XLA's, of this program; None for the defaults.
    """

    def part_loss(params: Any, batch: DeviceBatch, key: Array) -> tuple[Array, Array]:
        augment_key, dropout_key = jax.random.split(key)
        images, targets = task.augment(augment_key, normalize(batch["image"], spec), batch)
        outputs = forward(model, {"params": params}, images, spec, train=True, rng=dropout_key)
        return task.loss(outputs, targets, batch["weight"])

    whole, rows = replicated(mesh), split_batch(mesh)
    states: Any = whole if layout is None else layout
    parameters = whole if layout is None else layout.params

    def gradient(params: Any, batch: DeviceBatch, key: Array) -> tuple[tuple[Array, Array], Any]:
        value, grads = jax.value_and_grad(part_loss, has_aux=True)(params, batch, key)
        # Summed over the devices into the parts that the optimizer works on, not whole into each device.
        return value, jax.lax.with_sharding_constraint(grads, parameters)

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, dict[str, Array]]:
        key = step_key(seed, state.step)
        (loss, weight), grads = _accumulated(gradient, state.params, batch, key, accumulate)
        # A factor, unlike a division, is computed again wherever a gradient is read, without a pass of its own.
        share = 1.0 / jnp.maximum(weight, 1.0)
        loss, grads = loss * share, jax.tree.map(lambda grad: grad * share, grads)
        lr = schedule(state.step)
        report = {"loss": loss, "weight": weight, "skipped": (batch["weight"] == 0).sum(), "lr": lr, **_health(grads)}
        report["finite"] = jnp.isfinite(loss) & ~report["bad"].any()
        new = _updated(state, grads, optimizer, lr, ema_decay)
        # A batch in which no picture decoded teaches nothing; not even the decay may act on it.
        keep = report["finite"] & (weight > 0)
        kept: TrainState = jax.tree.map(lambda a, b: jax.lax.select(keep, a, b), new, state)
        return kept.replace(step=state.step + 1), report

    places: Any = {"in_shardings": (states, rows), "out_shardings": (states, whole)}
    return jax.jit(train_step, donate_argnums=0, **places, compiler_options=compiler_options)


def make_eval_step(model: nn.Module, spec: InputSpec, task: Task, mesh: Mesh, layout: Any = None) -> EvalStep:
    """Compiles a validation step: (params, batch) -> the task's (sum, count) pairs.

    Args:
      layout: the shardings of the parameters; None for whole on every device.
    """

    def eval_step(params: Any, batch: DeviceBatch) -> Metrics:
        return task.metrics(forward(model, {"params": params}, batch["image"], spec), batch)

    whole = replicated(mesh)
    return jax.jit(
        eval_step, in_shardings=(whole if layout is None else layout, split_batch(mesh)), out_shardings=whole
    )


def parameter_names(params: Any) -> list[str]:
    """ "a/b/c" names in the order of the report's "bad"."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def _health(grads: Any) -> dict[str, Array]:
    """ "grad_norm", and "bad": in which leaves a number is not finite, or the sum of squares beyond float32's range."""
    squares = jnp.stack([jnp.vdot(grad, grad, precision="highest") for grad in jax.tree.leaves(grads)])
    return {"grad_norm": jnp.sqrt(squares.sum()), "bad": ~jnp.isfinite(squares)}


def _updated(
    state: TrainState,
    grads: Any,
    optimizer: optax.GradientTransformation,
    lr: Array,
    ema_decay: float | None,
) -> TrainState:
    """The state after one step of the optimizer; its step number is left to the caller."""
    direction, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: -lr * update, direction)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema_params
    if ema_decay is not None:
        ema = update_ema(ema, params, state.step, ema_decay)
    return TrainState(state.step, params, opt_state, ema)


def _accumulated(
    gradient: Callable[..., tuple[tuple[Array, Array], Any]],
    params: Any,
    batch: DeviceBatch,
    key: Array,
    parts: int,
) -> tuple[tuple[Array, Array], Any]:
    """Summed loss, weight and gradient of a batch, computed in `parts` equal parts."""
    if parts == 1:
        whole: tuple[tuple[Array, Array], Any] = gradient(params, batch, key)
        return whole
    # Example i goes to part i % parts, so that each device's share splits without moving anything.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), dict(batch))
    keys = jax.random.split(key, parts)

    def add_part(total: Any, part: tuple[DeviceBatch, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], split), keys[0]),
    )
    total: tuple[tuple[Array, Array], Any] = jax.lax.scan(add_part, zeros, (split, keys))[0]
    return total
