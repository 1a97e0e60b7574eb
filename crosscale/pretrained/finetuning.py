"""What fine-tuning needs to know that the user did not say: the model of the weights, and sizes that fit the data."""

import json
from collections.abc import Mapping
from typing import Any

from crosscale.errors import RequestError
from crosscale.pretrained.loading import read_source
from crosscale.pretrained.suggest import best_preset

STEPS = 400  # fewer than this teach little, however few the pictures
LOG_EVERY = 20
EPOCHS = (10, 20, 100)  # for very many pictures, usually, at most


def model_of(pretrained: str) -> dict[str, Any]:
    """The model that a file or run folder holds weights of: {"name": ..., "options": {...}}.

    Raises RequestError when a file is of no preset; the model has to be given then.
    """
    flat, artifact = read_source(pretrained)
    if artifact is not None:
        return {"name": artifact.model, "options": dict(artifact.options)}
    match = best_preset(flat)
    if match is None or match.share < 0.9:
        near = f"; the nearest is {match.preset} ({match.share:.0%} of its tensors)" if match else ""
        raise RequestError(f"{pretrained}: weights of no preset{near}; say which model they are for: --model M")
    return {"name": match.preset, "options": {}}


def fitting_sizes(images: int, devices: int, usual_batch: int) -> dict[str, int]:
    """Batch size, epochs, and steps between lines of the log, for that many training images.

    A batch is at most a quarter of the data, so that an epoch has several steps, and divides over the devices. An epoch
    has a line of the log at least.
    """
    batch = max(1, min(usual_batch, images // 4))
    batch = max(devices, batch // devices * devices)
    low, usual, high = EPOCHS
    steps = max(1, images // batch)
    epochs = low if images > 100_000 else min(high, max(usual, -(-STEPS // steps)))
    return {"batch_size": batch, "epochs": epochs, "log_every": min(LOG_EVERY, steps)}


def options_text(options: Mapping[str, Any]) -> dict[str, str]:
    """Constructor fields as the command line would give them."""
    return {f"model.options.{name}": json.dumps(value) for name, value in options.items()}
