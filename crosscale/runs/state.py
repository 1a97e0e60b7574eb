"""The state that a training begins with, from seeds or pretrained weights, its shapes, and the step that changes it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from crosscale.contracts import InputSpec, Variables
from crosscale.engine.compiler import compiler_options
from crosscale.engine.joint import begun_together
from crosscale.engine.loss_scale import first_scale
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.sharding import put_whole
from crosscale.engine.state import TrainState
from crosscale.engine.step import TrainStep, make_train_step
from crosscale.pretrained import fetch_weights, load_weights
from crosscale.runs.experiment import Experiment


def abstract_state(experiment: Experiment) -> tuple[TrainState, optax.GradientTransformation]:
    """Shapes and types of the state, without computing it, and the optimizer.

    Raises:
      RequestError: a rule of the optimizer matches no parameter.
    """
    recipe = experiment.recipe
    optimizer = make_optimizer(recipe.optimizer, experiment.shapes["params"], experiment.model)
    return jax.eval_shape(lambda shapes: _created(experiment, shapes, optimizer), experiment.shapes), optimizer


def _created(experiment: Experiment, variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    train = experiment.recipe.train
    return TrainState.create(
        variables["params"],
        optimizer,
        ema=train.ema_decay is not None,
        batch_stats=variables.get("batch_stats"),
        loss_scale=first_scale(train.dtype),
    )


def initial_state(experiment: Experiment, optimizer: optax.GradientTransformation, layout: TrainState) -> TrainState:
    """The state before the first step, on the devices as `layout` says.

    Raises:
      RequestError: the pretrained weights do not fit.
    """
    recipe = experiment.recipe
    seed = recipe.train.seed
    pretrained = None
    if recipe.model.pretrained:
        pretrained = put_whole(_pretrained(experiment), layout.variables())

    def create(variables: Any) -> TrainState:
        if variables is None:
            variables = experiment.model.init(jax.random.key(seed), _blank(experiment.spec))
        return _created(experiment, variables, optimizer)

    created = begun_together(jax.jit(create, out_shardings=layout), experiment.mesh)
    state: TrainState = created(pretrained)
    return state


def compiled_step(experiment: Experiment, optimizer: optax.GradientTransformation, layout: TrainState) -> TrainStep:
    """The experiment's training step, for a state that lies as `layout` says; it compiles when it is first called."""
    recipe, model, mesh = experiment.recipe, experiment.model, experiment.mesh
    return make_train_step(
        model,
        experiment.spec,
        experiment.task,
        optimizer,
        experiment.schedule,
        mesh,
        seed=recipe.train.seed,
        accumulate=recipe.optimizer.accumulate,
        ema_decay=recipe.train.ema_decay,
        ema_ramp=recipe.train.ema_ramp,
        frozen=recipe.optimizer.frozen,
        layout=layout,
        compiler_options=compiler_options(model, mesh),
    )


def _pretrained(experiment: Experiment) -> Variables:
    """The recipe's weights on the model; what does not carry over, such as another head, is made anew."""
    settings = experiment.recipe.model
    return load_weights(
        fetch_weights(settings.name) if settings.pretrained is True else str(settings.pretrained),
        experiment.model,
        adapt=True,
        only=settings.pretrained_only,
        classes=experiment.task.labels,
        seed=experiment.recipe.train.seed,
    )


def _blank(spec: InputSpec) -> Any:
    return jnp.zeros((1, *spec.size, spec.channels), jnp.float32)
