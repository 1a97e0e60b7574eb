"""The memory of each device that a training needs, from shapes alone."""

from typing import Any

import jax
import numpy as np

from crosscale.engine.forward import normalize, training_forward
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.sharding import bytes_per_device, split_parameters
from crosscale.runs.experiment import Experiment
from crosscale.trees import stop_gradients


def estimate_memory(experiment: Experiment) -> dict[str, int]:
    """Bytes that training needs on each device, from shapes alone.

    "parameters", "gradients", "optimizer" and "ema" are exact, of the device's parts. "activations" is what the
    backward pass keeps of one part of the batch as written, before the compiler fuses and reuses: an upper bound,
    mostly.
    """
    recipe, spec, model, task = experiment.recipe, experiment.spec, experiment.model, experiment.task
    per_device = recipe.train.images_per_step // experiment.mesh.size
    example: dict[str, Any] = {**task.examples(spec, recipe.augment).blank(), "weight": np.float32(0)}
    shapes = experiment.shapes
    params = shapes["params"]
    slots = jax.eval_shape(make_optimizer(recipe.optimizer, params, model).init, params)

    def backward(variables: Any, batch: dict[str, Any]) -> Any:
        key, images = jax.random.key(0), batch["image"]
        told = task.training_options(task.augment(key, normalize(images, spec), batch)[1])

        def run(params: Any) -> Any:
            learnt = stop_gradients(params, recipe.optimizer.frozen)
            return training_forward(model, {**variables, "params": learnt}, images, spec, key, **told)[0]

        return jax.vjp(run, variables["params"])[1]

    def kept_of(pictures: int) -> int:
        batch = {name: jax.ShapeDtypeStruct((pictures, *part.shape), part.dtype) for name, part in example.items()}
        return _bytes(jax.eval_shape(backward, shapes, batch))

    # Only the parameters and what is made from them do not grow with the batch. One picture alone would have
    # no variance, which a batch norm asks for.
    kept = kept_of(3) - kept_of(2)
    one_part = per_device // recipe.optimizer.accumulate
    parameters = bytes_per_device(params, split_parameters(params, experiment.mesh))
    return {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": bytes_per_device(slots, split_parameters(slots, experiment.mesh)),
        "ema": parameters if recipe.train.ema_decay is not None else 0,
        "batch": per_device * (example["image"].nbytes + task.target_bytes()),
        "activations": kept * one_part,
    }


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
