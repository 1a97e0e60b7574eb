"""A pass over held-out data: the one that the training loop, `validate` and the report share."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from crosscale.cluster.hosts import sums as over_processes
from crosscale.contracts import Batch, Variables
from crosscale.engine.sharding import own_rows, put_batch, spans_processes, to_host
from crosscale.engine.step import EvalStep
from crosscale.errors import WorkError
from crosscale.tasks.metric import Metric


class Interrupted(Exception):  # noqa: N818 - not an error: the caller asked for it
    """The pass was asked to stop before its end."""


@dataclass(frozen=True)
class Pass:
    """What a pass found.

    Attributes:
      metrics: the metric's numbers by name, and "examples" (how many counted), "skipped" (pictures that did not
        decode) and "images_per_second" (without the first batch, which may compile, where there are more).
      rows: what the metric collected, (examples, ...) by name in the order of the source, of all processes; the
        examples' positions in the source are "index". Empty where the step collects nothing.
      targets: the examples' target arrays that the metric keeps, in the same order.
      state: the metric's, of all examples.
      errors: one line for each picture of this process that did not decode.
    """

    metrics: dict[str, float]
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    state: Any = None
    errors: tuple[str, ...] = ()


def evaluate(
    eval_step: EvalStep,
    variables: Variables,
    batches: Iterator[Batch],
    mesh: Mesh,
    metric: Metric,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Pass:
    """Every example of weight > 0 of all processes counts once; all of the mesh have to call it.

    Args:
      eval_step: made for the same metric.
      variables: the model's, on the devices.
      batches: this process's rows of each.
      should_stop: asked before each batch; every process gets the same answer.
      on_batch: told the number of images so far; each process counts its own.

    Raises:
      Interrupted: `should_stop` said so.
      WorkError: no example counted.
    """
    counted = _Counted(metric, mesh)
    seen = skipped = 0
    errors: list[str] = []
    first = 0
    start = mark = time.perf_counter()
    pending: Any = None
    for batch in batches:
        if should_stop():
            raise Interrupted
        real = batch.index >= 0
        seen += int(real.sum())
        skipped += int((real & (batch.weight == 0)).sum())
        errors += getattr(batches, "errors", ())
        running = eval_step(variables, put_batch(batch, mesh)), batch
        # Read one batch late, so that the devices work while the host loads.
        if pending is not None:
            counted.add(*pending)
        elif not first:
            jax.block_until_ready(running[0])
            first, mark = seen, time.perf_counter()
        pending = running
        on_batch(seen)
    if pending is not None:
        counted.add(*pending)
    end = time.perf_counter()
    if spans_processes(mesh):
        seen, skipped, first = over_processes([seen, skipped, first])
    later = seen - first
    rate = later / (end - mark) if later else seen / max(end - start, 1e-9)
    if seen == skipped:
        raise WorkError(_why_nothing(skipped, errors))
    rows, targets = counted.gathered()
    metrics = metric.compute(counted.state, rows)
    numbers = {**metrics, "examples": seen - skipped, "skipped": skipped, "images_per_second": rate}
    return Pass(numbers, rows, targets, counted.state, tuple(errors))


def _why_nothing(skipped: int, errors: Sequence[str]) -> str:
    if not skipped:
        return "there are no held-out pictures to measure on"
    first = f"; the first: {errors[0]}" if errors else ""  # of several processes others may have them
    return f"none of the {skipped} held-out pictures could be decoded, so nothing can be measured{first}"


class _Counted:
    """What has been counted so far: the merged state, and this process's rows."""

    def __init__(self, metric: Metric, mesh: Mesh) -> None:
        self.state = metric.init()
        self._metric, self._mesh = metric, mesh
        self._rows: list[dict[str, np.ndarray]] = []

    def add(self, output: tuple[Any, Mapping[str, Any]], batch: Batch) -> None:
        state, rows = output
        self.state = self._metric.merge(self.state, jax.device_get(state))
        if rows:
            kept = self._metric.targets
            names = [name for name in batch.arrays if name != "image"] if kept is None else kept
            targets = {f"target/{name}": np.asarray(batch.arrays[name]) for name in names}
            collected = {f"row/{name}": array for name, array in own_rows(dict(rows), self._mesh).items()}
            counts = {"index": np.where(batch.weight > 0, batch.index, -1)}
            self._rows.append({**targets, **collected, **counts})

    def gathered(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(rows, targets) of all processes in the order of the source; each process has as many batches."""
        if not self._rows:
            return {}, {}
        own = {name: np.concatenate([rows[name] for rows in self._rows]) for name in self._rows[0]}
        if spans_processes(self._mesh):
            own = to_host(own)
        order = np.argsort(own["index"], kind="stable")
        order = order[own["index"][order] >= 0]
        ordered = {name: rows[order] for name, rows in own.items()}
        rows = {name.removeprefix("row/"): x for name, x in ordered.items() if name.startswith("row/")}
        targets = {name.removeprefix("target/"): x for name, x in ordered.items() if name.startswith("target/")}
        return {**rows, "index": ordered["index"]}, targets
