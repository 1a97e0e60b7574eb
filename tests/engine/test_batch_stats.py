"""A model with batch norms: its running statistics are part of the state, wherever the parameters are."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from crosscale.contracts import InputSpec
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.loop import restore_state
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings
from crosscale.engine.sharding import data_mesh, replicated
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step, make_train_step
from crosscale.tasks.classification import Classification

SPEC = InputSpec(size=(4, 4), channels=1, mean=(0.4,), std=(0.3,))
MOMENTUM = 0.9


class Normed(nn.Module):
    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        x = nn.Dense(3, name="dense")(images.reshape(images.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, name="norm")(x)
        return nn.Dense(2, name="head")(x)


def begin(*, ema: float | None = None, accumulate: int = 1, lr: float = 0.1, model: nn.Module | None = None) -> Any:
    model = model or Normed()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    optimizer = make_optimizer(OptimizerSettings("sgd", weight_decay=0.0), variables["params"])
    step = make_train_step(
        model,
        SPEC,
        Classification(2),
        optimizer,
        lambda step: jnp.float32(lr),
        data_mesh(),
        seed=0,
        accumulate=accumulate,
        ema_decay=ema,
    )
    kept = jax.tree.map(jnp.copy, variables)
    return step, TrainState.create(kept["params"], optimizer, ema=ema is not None, batch_stats=kept["batch_stats"])


def batch(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)
    return {"image": image, "label": np.arange(8) % 2, "weight": np.ones(8, np.float32)}


def activations(state: Any, images: np.ndarray) -> np.ndarray:
    """What the norm sees of images, in float64."""
    x = (images.reshape(len(images), -1) / 255.0 - 0.4) / 0.3
    dense = jax.tree.map(np.asarray, state.params["dense"])
    return x @ dense["kernel"].astype(np.float64) + dense["bias"]


def test_a_step_moves_the_running_statistics() -> None:
    step, state = begin()
    seen = activations(state, batch()["image"])
    new, _ = step(state, batch())
    stats = new.batch_stats["norm"]
    np.testing.assert_allclose(stats["mean"], (1 - MOMENTUM) * seen.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], MOMENTUM + (1 - MOMENTUM) * seen.var(0), rtol=1e-4)
    assert new.ema_batch_stats is None


def test_parts_of_a_batch_move_them_one_after_another() -> None:
    step, state = begin(accumulate=2)
    seen = activations(state, batch()["image"])
    new, _ = step(state, batch())
    mean = np.zeros(3)
    for part in (seen[0::2], seen[1::2]):  # example i is in part i % 2
        mean = MOMENTUM * mean + (1 - MOMENTUM) * part.mean(0)
    np.testing.assert_allclose(new.batch_stats["norm"]["mean"], mean, rtol=1e-4, atol=1e-6)


def test_the_average_follows_them() -> None:
    step, state = begin(ema=0.999)
    new, _ = step(state, batch())
    rate = 1 / 10  # the first step's, see update_ema
    want = (1 - rate) * np.asarray(new.batch_stats["norm"]["mean"])
    np.testing.assert_allclose(new.ema_batch_stats["norm"]["mean"], want, rtol=1e-5)
    assert new.variables(averaged=True) == {"params": new.ema_params, "batch_stats": new.ema_batch_stats}
    assert new.variables() == {"params": new.params, "batch_stats": new.batch_stats}


def test_a_step_that_is_not_finite_leaves_them() -> None:
    step, state = begin(lr=float("nan"))
    before = jax.device_get(state.batch_stats)
    broken = {**batch(), "weight": np.full(8, np.inf, np.float32)}  # a loss without bounds
    new, report = step(state, broken)
    assert not report["finite"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(new.batch_stats), before)


@pytest.mark.slow
def test_validation_reads_them() -> None:
    step, state = begin()
    for seed in range(3):
        state, _ = step(state, batch(seed))
    check = make_eval_step(Normed(), SPEC, Classification(2), data_mesh())
    one = check(state.variables(), batch())[0]["loss"][0]
    other = check({**state.variables(), "batch_stats": {"norm": {"mean": jnp.ones(3), "var": jnp.ones(3)}}}, batch())
    logits = Normed().apply(state.variables(), (batch()["image"] / 255.0 - 0.4) / 0.3)
    want = -np.asarray(jax.nn.log_softmax(logits))[np.arange(8), batch()["label"]].sum()
    np.testing.assert_allclose(one, want, rtol=1e-5)
    assert abs(float(other[0]["loss"][0]) - float(one)) > 1e-3


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_checkpoint_brings_them_back(tmp_path: Path, ema: float | None) -> None:
    step, state = begin(ema=ema)
    state, _ = step(state, batch())
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, state.stored(), {})
    checkpoints.wait()
    found = restore_state(checkpoints, begin(ema=ema)[1], replicated(data_mesh()))
    checkpoints.close()
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, found[0], state)


@pytest.mark.slow
def test_statistics_are_of_the_whole_batch_on_any_number_of_devices() -> None:
    """What other projects call synchronised batch norm."""
    found = []
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        done = subprocess.run(
            [sys.executable, "-m", "tests.engine.test_batch_stats"],
            env={**os.environ, "XLA_FLAGS": flags},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert [one["devices"] for one in found] == [1, 8]
    np.testing.assert_allclose(found[0]["mean"], found[1]["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0]["var"], found[1]["var"], rtol=1e-5)


def main() -> None:
    """One step of this process's devices; prints the running statistics of `layers.batch_norm`."""
    from crosscale.layers.batch_norm import BatchNorm

    class Ours(Normed):
        @nn.compact
        def __call__(self, images: Any, train: bool = False) -> Any:
            x = nn.Dense(3, name="dense")(images.reshape(images.shape[0], -1))
            return nn.Dense(2, name="head")(BatchNorm(name="norm")(x, train))

    step, state = begin(model=Ours())
    new, _ = step(state, batch())
    stats = jax.device_get(new.batch_stats["norm"])
    print(json.dumps({"devices": jax.device_count(), **{name: value.tolist() for name, value in stats.items()}}))


if __name__ == "__main__":
    main()
