"""A trained model as the teacher of another: any run or preset, on the images that the other one sees."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from crosscale.artifact import CONFIG, WEIGHTS, find_best, first_of_several, read_artifact, whole_weights
from crosscale.contracts import Array, InputSpec
from crosscale.engine.forward import forward
from crosscale.errors import RequestError
from crosscale.layers.resize import resize_bicubic
from crosscale.models.registry import create_model, input_spec
from crosscale.pretrained.loading import fetch_weights, load_weights
from crosscale.pretrained.restore import restore_model

log = logging.getLogger("crosscale")


def load_teacher(
    teacher: str, weights: str | None, classes: Sequence[str], spec: InputSpec
) -> Callable[[Array], Array]:
    """The teacher's logits as a function of the images that the learning model gets.

    Args:
      teacher: a run folder, or a preset.
      weights: a preset's weight file; None takes the published ones.
      classes: of the learning model, in label order. A run's classes are put into this order by name; a preset's
        must be as many.
      spec: the input of the learning model, by which the images are normalised. They are normalised anew and
        resized for the teacher.

    Returns:
      (B, H, W, C) normalised images -> (B, len(classes)) logits.

    Raises:
      RequestError: no such teacher, or it knows other classes or channels.
    """
    folder = _folder(teacher)
    if folder is not None:
        if weights is not None:
            raise RequestError("distill.weights goes with a preset; a run brings its own")
        artifact = read_artifact(folder)
        model = restore_model(artifact, folder / CONFIG)
        own, names, path = artifact.input_spec, list(artifact.labels), whole_weights(folder, artifact)
    else:
        model = create_model(teacher, num_classes=len(classes))
        own, names = input_spec(teacher, model), list(classes)
        path = teacher_file(teacher, weights)
    missing = [name for name in classes if name not in names]
    if missing:
        raise RequestError(f"distill.teacher: {teacher} does not know the class '{missing[0]}'; teach the same classes")
    if own.channels != spec.channels:
        raise RequestError(f"distill.teacher: {teacher} takes {own.channels} channels, the model {spec.channels}")
    variables: Any = jax.tree.map(jnp.asarray, load_weights(path, model))
    order = jnp.asarray([names.index(name) for name in classes])
    log.info("teacher: %s, %s", teacher, path)

    def logits(images: Array) -> Array:
        images = _renormalised(images.astype(jnp.float32), spec, own)
        return forward(model, variables, resize_bicubic(images, own.size), own)[:, order]

    return logits


def teacher_file(teacher: str, weights: str | None) -> Path:
    """The file of a teacher's weights. Raises RequestError, WorkError.

    Args:
      teacher: as for `load_teacher`, also the next.
    """
    folder = _folder(teacher)
    if folder is not None:
        return folder / WEIGHTS
    return Path(weights) if weights is not None else fetch_weights(teacher)


def _folder(teacher: str) -> Path | None:
    root = Path(teacher).expanduser()
    folder = find_best(root)
    if folder is None and root.is_absolute() and not root.exists():  # as a run that goes on has it
        raise RequestError(f"distill.teacher: {teacher}: no such run folder")
    if folder is None and (several := first_of_several(root)) is not None:
        raise RequestError(f"distill.teacher: {teacher} holds several runs, not one; name one, such as {several}")
    if folder is None and root.exists():
        raise RequestError(f"distill.teacher: {teacher} is no run folder with best weights")
    return folder


def _renormalised(images: Array, old: InputSpec, new: InputSpec) -> Array:
    if (old.mean, old.std) == (new.mean, new.std):
        return images
    pixels = images * jnp.asarray(old.std) + jnp.asarray(old.mean)
    return (pixels - jnp.asarray(new.mean)) / jnp.asarray(new.std)
