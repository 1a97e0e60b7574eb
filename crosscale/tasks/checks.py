"""What tasks refuse in one line: other labels, and options that they do not have."""

from collections.abc import Mapping, Sequence
from typing import Any

from crosscale.contracts import InputSpec
from crosscale.errors import RequestError
from crosscale.tasks.task import DeclaredData, Task


def check_labels(wanted: Sequence[str], found: Sequence[str], message: str, *, one: str, many: str) -> None:
    """Raises RequestError unless the names are the same in the same order.

    Args:
      message: of the error, with {} where the difference is named.
      one: what a name is of, such as "class".
      many: the same of several, such as "classes".
    """
    if tuple(wanted) == tuple(found):
        return
    missing = [name for name in wanted if name not in found]
    further = [name for name in found if name not in wanted]
    if missing:
        what = f"the {one} '{missing[0]}' is missing"
    else:
        what = f"there is a further {one} '{further[0]}'" if further else f"the {many} are in another order"
    raise RequestError(message.format(what))


def classes_option(given: Mapping[str, Any], count: int, place: Any, noun: str = "classes") -> dict[str, Any]:
    """A model's `num_classes`, which is `count`. Raises RequestError where another number was given.

    Args:
      given: the recipe's constructor fields.
      place: of the data, for the error.
      noun: what they are called there.
    """
    if given.get("num_classes", count) != count:
        raise RequestError(f"model.options.num_classes={given['num_classes']}, but {place} has {count} {noun}")
    return {"num_classes": count}


def declared_sizes(data: DeclaredData, place: str = "FOLDER") -> tuple[Sequence[str], int, int]:
    """The names of the classes, and the numbers of examples to train on and held out.

    Args:
      place: what could be given instead, for the error.

    Raises:
      RequestError: a size is missing.
    """
    if data.outputs is None or data.train_images is None or data.val_images is None:
        raise RequestError(
            f"data.dir is not set: give --data-dir {place}, or for a dry run data.train_images, data.val_images and "
            "data.num_classes"
        )
    return data.labels or tuple(str(label) for label in range(data.outputs)), data.train_images, data.val_images


def check_photographs(spec: InputSpec, task: str) -> None:
    """Raises RequestError for pictures that a task with masks or boxes does not read, or would fit in another way."""
    if spec.crop_mode != "center":
        raise RequestError(
            f"data.crop_mode={spec.crop_mode}: the task {task} shows whole pictures at augment.scale; leave it out"
        )
    if spec.pixels != "uint8" or spec.channels not in (1, 3):
        raise RequestError(
            f"data.pixels={spec.pixels}, data.channels={spec.channels}: the task {task} reads pictures of 8 bits and 1 "
            "or 3 channels; tasks without masks and boxes read others"
        )


def check_test_options(task: Task | type[Task], options: Mapping[str, Any]) -> None:
    """Raises RequestError for an option that does not change after training, or that the task does not have."""
    for name in options:
        if name not in task.test_options:
            known = ", ".join(f"task.{known}" for known in task.test_options) or "none"
            raise RequestError(f"task.{name} does not go with a trained model of the task {task.name}; it has {known}")


def check_result_options(task: Task | type[Task], options: Mapping[str, int]) -> None:
    """Raises RequestError for an option of `results` that the task does not have, or that is below its minimum."""
    for name, value in options.items():
        if name not in task.result_options:
            known = ", ".join(task.result_options) or "none"
            raise RequestError(f"{name} does not go with the task {task.name}; it has {known}")
        if value < (least := task.result_options[name].minimum):
            raise RequestError(f"{name}={value}: at least {least}")
