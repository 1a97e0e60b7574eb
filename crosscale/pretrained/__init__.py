"""Weights onto models: from the hub or a file, under any project's names, onto other classes and sizes; and back."""

from crosscale.pretrained.loading import (
    Contents,
    fetch_weights,
    inspect_weights,
    load_pretrained,
    load_weights,
    save_weights,
)
from crosscale.pretrained.naming import OWN, from_variables, parameter_shapes, recognise, to_variables, variables_of
from crosscale.pretrained.publishing import save_pretrained
from crosscale.pretrained.restore import restore_model, restore_task
from crosscale.pretrained.suggest import best_preset

__all__ = [
    "OWN",
    "Contents",
    "best_preset",
    "fetch_weights",
    "from_variables",
    "inspect_weights",
    "load_pretrained",
    "load_weights",
    "parameter_shapes",
    "recognise",
    "restore_model",
    "restore_task",
    "save_pretrained",
    "save_weights",
    "to_variables",
    "variables_of",
]
