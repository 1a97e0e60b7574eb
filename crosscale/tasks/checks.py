"""What tasks refuse in one line: other labels, and options that they do not have."""

from collections.abc import Mapping, Sequence
from typing import Any

from crosscale.errors import RequestError
from crosscale.tasks.task import Task


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
        what = f"there is a further {one} '{further[0]}'" if further else f"the {many} stand in another order"
    raise RequestError(message.format(what))


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
