"""A pass over held-out data."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from crosscale.contracts import Batch
from crosscale.engine.hosts import sums as over_processes
from crosscale.engine.metrics import Sums, add, means
from crosscale.engine.sharding import put_batch
from crosscale.engine.step import EvalStep


class Interrupted(Exception):  # noqa: N818 - not an error: the caller asked for it
    """The pass was asked to stop before its end."""


def evaluate(
    eval_step: EvalStep,
    params: Any,
    batches: Iterator[Batch],
    mesh: Mesh,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, float]:
    """The task's means over all examples of weight > 0, of all processes; all of them have to call it.

    Args:
      params: on the devices.
      batches: this process's rows of each.
      should_stop: asked before each batch; every process gets the same answer.
      on_batch: told the number of images so far; each process counts its own.

    Returns:
      The metrics by name, and "examples" (how many counted), "skipped" (pictures that did not decode) and
      "images_per_second" (without the first batch, which may compile, where there are more).

    Raises:
      Interrupted: `should_stop` said so.
    """
    sums: Sums = {}
    seen = skipped = 0
    first = 0
    start = mark = time.perf_counter()
    pending: Any = None
    for batch in batches:
        if should_stop():
            raise Interrupted
        real = batch.index >= 0
        seen += int(real.sum())
        skipped += int((real & (batch.weight == 0)).sum())
        running = eval_step(params, put_batch(batch, mesh))
        # Read one batch late, so that the devices work while the host loads.
        if pending is not None:
            sums = add(sums, jax.device_get(pending))
        elif not first:
            jax.block_until_ready(running)  # type: ignore[no-untyped-call]
            first, mark = seen, time.perf_counter()
        pending = running
        on_batch(seen)
    if pending is not None:
        sums = add(sums, jax.device_get(pending))
    end = time.perf_counter()
    seen, skipped, first = over_processes([seen, skipped, first])
    later = seen - first
    rate = later / (end - mark) if later else seen / max(end - start, 1e-9)
    result = means(sums)
    return {**result, "examples": seen - skipped, "skipped": skipped, "images_per_second": rate}
