"""The tasks, written out. A new task is a folder beside this file and one more line here."""

from collections.abc import Sequence
from typing import Any

from crosscale.artifact import Artifact
from crosscale.errors import RequestError, did_you_mean
from crosscale.tasks.classification import Classification
from crosscale.tasks.detection import Detection, Instances
from crosscale.tasks.multilabel import MultiLabel
from crosscale.tasks.regression import Regression
from crosscale.tasks.segmentation import Segmentation
from crosscale.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "multilabel": MultiLabel,
    "regression": Regression,
    "segmentation": Segmentation,
    "detection": Detection,
    "instances": Instances,
}
DEFAULT = "classification"


def task_kind(name: Any) -> type[Task]:
    """The class of a task by its name. Raises RequestError for an unknown one, with the nearest."""
    if not isinstance(name, str) or name not in TASKS:
        hint = did_you_mean(str(name), TASKS)
        raise RequestError(f"unknown task '{name}'{hint or '; one of: ' + ', '.join(TASKS)}")
    return TASKS[name]


def stored_task(artifact: Artifact) -> Task:
    """The task of a trained model, from what its artifact says. Raises RequestError."""
    return task_kind(artifact.task).from_artifact(artifact.labels, artifact.task_options)


def plain_task(labels: Sequence[str]) -> Task:
    """The task of weights that come without an artifact: a classification, as published models are."""
    return TASKS[DEFAULT].from_artifact(labels, {})


def own_task(model: Any, labels: Sequence[str] | None) -> Task | None:
    """The task of a model that is made for another than the usual one, such as a detector or a segmentation;
    None for the others.

    Args:
      labels: names of the outputs; None calls them "0", "1", ...
    """
    kind = getattr(model, "usual_task", DEFAULT)
    if kind == DEFAULT:
        return None
    names = labels if labels is not None else [str(label) for label in range(model.num_classes)]
    return TASKS[kind].from_artifact(names, {})
