"""A validation step that process 1 compiles late: `python late_compiling.py HOST:PORT N I SECONDS`.

Process 0 prints as JSON how long the step took with its compilation, and how long when all had compiled it.
"""

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crosscale.cluster.hosts import Start, is_first, together

if __name__ == "__main__":
    place, processes, process, seconds = sys.argv[1], *map(int, sys.argv[2:])
    with together(Start(place, processes, process)):
        from crosscale.contracts import Batch, InputSpec
        from crosscale.engine import joint
        from crosscale.engine.sharding import data_mesh, put_batch, put_whole, replicated
        from crosscale.engine.step import make_eval_step
        from crosscale.tasks.classification import Classification
        from tests.engine.conftest import TinyModel

        mesh, model, spec = data_mesh(), TinyModel(), InputSpec((8, 8), 1, (0.4,), (0.3,))
        step = make_eval_step(model, spec, Classification(4), mesh)
        params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        rows = np.zeros((4, 8, 8, 1), np.uint8)
        batch = Batch({"image": rows, "label": np.zeros(4, np.int32)}, np.ones(4, np.float32), np.arange(4))
        placed = put_whole(params, replicated(mesh)), put_batch(batch, mesh)
        met: list[float] = []
        wait, compiled = joint.wait_for_all, jax.stages.Lowered.compile

        def wait_for_all(name: str) -> None:
            wait(name)
            met.append(time.monotonic())

        def late(*words: Any, **options: Any) -> Any:
            time.sleep(seconds)
            return compiled(*words, **options)

        joint.wait_for_all = wait_for_all
        if not is_first():
            jax.stages.Lowered.compile = late  # type: ignore[method-assign]
        began = time.monotonic()
        jax.block_until_ready(step(*placed))
        ended = time.monotonic()
        step(*placed)  # is compiled: nothing to wait for
        if is_first():
            print(json.dumps({"step": ended - began, "together": ended - met[0], "met": len(met)}))
