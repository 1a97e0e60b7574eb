"""A function of one row, such as one picture's boxes, for all rows of a batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from crosscale.layers.kernels.choice import asked


def each(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of one row of each argument as one of whole arguments: `jax.vmap(function)`.

    Where a loop is asked for (`use_kernels(rows="loop")`), one row follows another.
    """
    if asked().rows != "loop":
        return jax.vmap(function)
    return lambda *rows: lax.map(lambda row: function(*row), rows)
