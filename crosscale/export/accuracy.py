"""How good an exported program's answers are on held-out pictures, by the task's own measures."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from crosscale.contracts import Record, Source, Variables
from crosscale.data import eval_batches
from crosscale.engine.evaluate import evaluate
from crosscale.engine.sharding import data_mesh
from crosscale.export.formats import Run
from crosscale.export.program import Program
from crosscale.predictor import Predictor
from crosscale.tasks.measure import Measure
from crosscale.tasks.metric import DeviceBatch

BATCH = 16  # pictures of a forward, brought up to a multiple of the devices


@dataclass(frozen=True)
class Spaced:
    """At most `most` examples of a source, evenly spaced over it, as a source."""

    source: Source
    most: int

    def __len__(self) -> int:
        return min(self.most, len(self.source))

    def __getitem__(self, index: int) -> Record:
        return self.source[index * len(self.source) // len(self)]


def prepared(predictor: Predictor, source: Source) -> np.ndarray:
    """(N, H, W, C) uint8: every picture of a source as validation prepares it. Raises BadImage."""
    examples = predictor.task.examples(predictor.spec)
    return np.stack([np.asarray(examples.validation(source[place])["image"]) for place in range(len(source))])


def measured(program: Program, run: Run, source: Source) -> dict[str, float]:
    """The task's numbers of a program's outputs on every example of a source, and "examples".

    Args:
      program: says what goes in and comes out.
      run: the written program.
      source: counted as the predictor's task counts.

    Raises:
      RequestError: the task cannot be measured by what the program gives.
      WorkError: a picture does not decode.
    """
    task: Any = program.predictor.task.measuring(source)
    metric = task.metric

    @jax.jit
    def counted(outputs: Any, batch: DeviceBatch) -> Any:
        if metric.collects:
            return metric.update_and_collect(metric.init(), outputs, batch)
        return metric.update(metric.init(), outputs, batch), {}

    def step(variables: Variables, batch: DeviceBatch) -> Any:
        outputs = run(program.prepare(np.asarray(batch["image"])))
        if program.preprocessing and program.activated:
            outputs = task.outputs_of(outputs)
        return counted(outputs, {name: array for name, array in batch.items() if name != "image"})

    mesh = data_mesh()
    size = mesh.size * -(-BATCH // mesh.size)
    with eval_batches(source, task.examples(program.predictor.spec), batch_size=size) as batches:
        return dict(evaluate(step, {}, batches, mesh, metric).metrics)


def lost(measure: Measure, before: float, after: float) -> float:
    """How much worse the second is: points of a percentage where the measure is a share, else percent of the first."""
    worse = before - after if measure.higher_is_better else after - before
    return 100 * worse if measure.share else 100 * worse / max(abs(before), float(np.finfo(np.float32).tiny))
