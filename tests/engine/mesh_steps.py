"""Steps of a small model on meshes of 8 devices, or of fewer of them; prints what came of it as JSON.

The words are names of `LAYOUTS`, and "resumed". Run as a process of its own: how many devices there are is settled
when JAX starts.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from crosscale.contracts import Batch, InputSpec
from crosscale.data.augment import Augment
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.evaluate import evaluate
from crosscale.engine.loop import restore_state
from crosscale.engine.loss_scale import first_scale
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import MeshSettings, OptimizerSettings
from crosscale.engine.sharding import bytes_per_device, make_mesh, put_batch, split_parameters, to_host
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step, make_train_step
from crosscale.errors import RequestError
from crosscale.tasks.classification import Classification
from tests.engine.conftest import TinyModel

SPEC = InputSpec((8, 8), 1, (0.4,), (0.3,))
STEPS = 6
LAYOUTS = {"1": (1, 1), "2": (2, 1), "8 data": (8, 1), "8 fsdp": (1, 8), "2 x 4": (2, 4)}


class Trainer:
    """The tiny model, with dropout, mixing, two parts to a batch, an average and a scaled loss, on one mesh."""

    def __init__(self, mesh: Mesh) -> None:
        model = TinyModel(drop_rate=0.2)
        params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
        optimizer = make_optimizer(OptimizerSettings(clip_norm=1.0), params)
        task = Classification(4, 0.1, Augment(mixup=0.8, cutmix=1.0, erase_prob=0.3))
        self.mesh = mesh
        self.state = TrainState.create(params, optimizer, ema=True, loss_scale=first_scale("float16"))
        self.layout = split_parameters(self.state, mesh)
        self.state = jax.device_put(self.state, self.layout)
        self.step = make_train_step(
            model,
            SPEC,
            task,
            optimizer,
            lambda step: jnp.float32(0.01),
            mesh,
            seed=0,
            accumulate=2,
            ema_decay=0.9,
            layout=self.layout,
        )
        self.metric = task.metric
        self.eval_step = make_eval_step(model, SPEC, task, mesh, self.layout.variables(), collect=True)

    def train(self, steps: range) -> list[float]:
        losses = []
        for step in steps:
            self.state, report = self.step(self.state, put_batch(batch(step), self.mesh))
            losses.append(float(report["loss"]))
            assert int(report["skipped"]) == 1
        return losses

    def validate(self) -> tuple[dict[str, float], dict[str, list[int]]]:
        """The numbers, and each example's record: its position, its target and what was predicted."""
        batches = iter([batch(7), batch(8, padding=5)])
        found = evaluate(self.eval_step, self.state.variables(averaged=True), batches, self.mesh, self.metric)
        metrics = {name: value for name, value in found.metrics.items() if name != "images_per_second"}
        rows = {"index": found.rows["index"], "label": found.targets["label"], "predicted": found.rows["predicted"]}
        return metrics, {name: values.tolist() for name, values in rows.items()}

    def report(self) -> dict[str, Any]:
        trained = self.train(range(STEPS))
        metrics, rows = self.validate()
        on_first = {
            name: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(getattr(self.state, name)))
            for name in ("params", "opt_state", "ema_params")
        }
        return {
            "losses": trained,
            "scale": [float(leaf) for leaf in jax.tree.leaves(self.state.loss_scale)],
            "metrics": metrics,
            "rows": rows,
            "bytes": on_first,
            "declared": bytes_per_device(self.state.params, self.layout.params),
            "weights": {name: np.asarray(value).tolist() for name, value in to_host(self.state.params)["head"].items()},
        }


def batch(step: int, padding: int = 0) -> Batch:
    rng = np.random.default_rng(step)
    images, labels = rng.integers(0, 256, (32, 8, 8, 1), np.uint8), rng.integers(0, 4, 32, np.int32)
    weight, index = np.ones(32, np.float32), np.arange(32)
    weight[3] = 0  # a picture that did not decode
    weight[32 - padding :], index[32 - padding :] = 0, -1
    return Batch({"image": images, "label": labels}, weight, index)


def mesh_of(data: int, fsdp: int) -> Mesh:
    """The first devices: as on a machine that has no more."""
    devices = np.array(jax.devices()[: data * fsdp], dtype=object).reshape(data, fsdp)
    return Mesh(devices, make_mesh(MeshSettings()).axis_names)


def resumed(folder: Path) -> list[float]:
    """The losses of one run on 8, then 2, then 1 device, by way of its checkpoints."""
    losses: list[float] = []
    for part, (data, fsdp) in enumerate([(2, 4), (1, 2), (1, 1)]):
        trainer, checkpoints = Trainer(mesh_of(data, fsdp)), Checkpoints(folder, keep=1)
        restored = restore_state(checkpoints, trainer.state, trainer.layout)
        if restored is not None:
            trainer.state = restored[0]
            assert jax.tree.map(lambda leaf: leaf.sharding, trainer.state) == trainer.layout
        losses += trainer.train(range(2 * part, 2 * part + 2))
        checkpoints.save(2 * part + 2, trainer.state.stored(), {})
        checkpoints.close()
    return losses


def refusal(data: int, fsdp: int) -> str:
    try:
        make_mesh(MeshSettings(data, fsdp))
    except RequestError as error:
        return str(error)
    return ""


def main(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "layouts": {name: Trainer(mesh_of(*shape)).report() for name, shape in LAYOUTS.items() if name in words},
            "resumed": resumed(Path(folder) / "checkpoints") if "resumed" in words else None,
            "meshes": [list(make_mesh(MeshSettings(*ask)).shape.values()) for ask in [(-1, 1), (-1, 4), (2, -1)]],
            "refusals": [refusal(-1, 3), refusal(3, -1), refusal(2, 2)],
        }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
