"""Programs that several processes run as one: each compiles its own first, and then all begin together."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from crosscale.cluster.hosts import wait_for_all
from crosscale.engine.sharding import spans_processes

Program = TypeVar("Program", bound=Callable[..., Any])


def begun_together(program: Program, mesh: Mesh) -> Program:
    """A jitted program that, for each new shape, begins when every process has compiled it.

    Processes compile for different times. One that began at once would wait for the others inside the program, and
    on processors the connection that its first exchange needs (Gloo's) is given up after 30 s.

    Args:
      program: only its last argument changes shape.
      mesh: what the program runs on; where no other process has a part of it, nothing has to be waited for.
    """
    if not spans_processes(mesh):
        return program
    ready: set[Any] = set()

    def run(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args[-1])
        shapes = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if shapes not in ready:
            program.lower(*args).compile()  # type: ignore[attr-defined]  # JAX keeps it for the call below
            wait_for_all("compiled")
            ready.add(shapes)
        return program(*args)

    return run  # type: ignore[return-value]
