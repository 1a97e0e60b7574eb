"""The one place where a model is applied: training, validation, prediction and export all come here."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crosscale.contracts import Array, InputSpec, Variables


def normalize(images: Array, spec: InputSpec, dtype: Any = jnp.float32) -> Array:
    """(x / 255 - mean) / std per channel; floating point, which is normalised already, as it is.

    Args:
      images: (B, H, W, C), uint8 or floating point.
      spec: holds the mean and the standard deviation.
      dtype: what uint8 becomes; the arithmetic is in float32.
    """
    if not jnp.issubdtype(images.dtype, jnp.integer):
        return images
    mean = jnp.asarray(spec.mean, jnp.float32)
    std = jnp.asarray(spec.std, jnp.float32)
    return ((images.astype(jnp.float32) / 255.0 - mean) / std).astype(dtype)


def forward(
    model: nn.Module,
    variables: Variables,
    images: Array,
    spec: InputSpec,
    *,
    train: bool = False,
    rng: jax.Array | None = None,
    method: str | None = None,
    **options: Any,
) -> Any:
    """What the model gives for a batch of pictures; pure, so that it can be jitted and differentiated.

    Args:
      images: (B, H, W, C) uint8 as the loader yields them, or floating point that is already normalised.
      spec: the input that the variables were trained for.
      train: turns dropout and stochastic depth on.
      rng: key of the "dropout" stream, needed when `train`.
      method: another method of the model, such as "features".
      **options: passed on to Linen's `apply`, such as `mutable` or `capture_intermediates`.

    Returns:
      The method's result; logits (B, classes) of a classifier by default.
    """
    images = normalize(images, spec)
    rngs = None if rng is None else {"dropout": rng}
    return model.apply(variables, images, train=train, rngs=rngs, method=method, **options)


def inferred(
    model: nn.Module, variables: Variables, images: Array, spec: InputSpec, task: Any, sizes: Array | None = None
) -> Any:
    """What the task reads of a batch in validation and prediction: one forward, or several looks at each picture.

    The arguments are those of `forward`; the task is a `Task`; `sizes` are (B, 2) heights and widths of the images
    without what fills them up, for a task that asks for them (`Task.content`).
    """
    images = normalize(images, spec)

    def apply(looked: Array, **options: Any) -> Any:
        return forward(model, variables, looked, spec, method=task.method, **options)

    return task.infer(apply, images, sizes)


def training_forward(
    model: nn.Module, variables: Variables, images: Array, spec: InputSpec, rng: jax.Array, **told: Any
) -> tuple[Any, Any]:
    """What the loss reads of a batch, and the batch norms' new running statistics (None for a model without any).

    The arguments are those of `forward`, and those that the task tells the model (`Task.training_options`).
    """
    # Any Linen module can be trained; an ImageModel says itself what it computes for the loss.
    method = "training_outputs" if hasattr(type(model), "training_outputs") else None
    options: dict[str, Any] = {"train": True, "rng": rng, "method": method, **told}
    if "batch_stats" not in variables:
        return forward(model, variables, images, spec, **options), None
    outputs, new = forward(model, variables, images, spec, mutable=["batch_stats"], **options)
    return outputs, new["batch_stats"]
