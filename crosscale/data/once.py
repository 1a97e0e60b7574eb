"""What both splits of a data set are made from is read once: a folder's listing, a shard's index, a table."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_kept: ContextVar[dict[Any, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """Within it, what `shared` marks runs once for the same arguments; its end forgets the results.

    Only for opening the splits of one data set: what changes on the disc meanwhile is not seen.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def shared(function: F) -> F:
    """Marks a function of paths and sequences of them whose result nobody changes."""

    @functools.wraps(function)
    def wrapper(*places: Any) -> Any:
        kept = _kept.get()
        if kept is None:
            return function(*places)
        key = (function.__module__, function.__name__, *(tuple(x) if isinstance(x, list) else x for x in places))
        if key not in kept:
            kept[key] = function(*places)
        return kept[key]

    return wrapper  # type: ignore[return-value]
