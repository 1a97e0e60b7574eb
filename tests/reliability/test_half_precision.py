"""bfloat16 and float16 compute with float32 master weights trains the real digits as well as float32 does."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from crosscale.artifact import WEIGHTS
from crosscale.contracts import Batch
from crosscale.data import eval_batches, train_batches
from crosscale.engine.evaluate import evaluate
from crosscale.engine.loss_scale import first_scale
from crosscale.engine.sharding import put_batch, split_parameters, to_host
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step
from crosscale.recipe import load
from crosscale.runs.experiment import Experiment, build, save_best
from crosscale.runs.state import abstract_state, compiled_step
from tests.reliability.record import trying
from tests.seeded import seeded_variables

# The digits' recipe, narrower and of one branch, which compiles several times faster; half of the pictures are held
# out, so that 0.5 points are four of them. With the larger batch, and no paths dropped, runs that differ in
# rounding alone come out a quarter of a point apart.
RECIPE = {
    "model.options.img_size": "[16]",
    "model.options.patch_size": "[4]",
    "model.options.embed_dim": "[48]",
    "model.options.depth": "[[2, 0]]",
    "model.options.num_heads": "[4]",
    "model.options.mlp_ratio": "[2]",
    "model.options.fusion": "none",
    "model.options.drop_path_rate": "0",
    "data.val_fraction": "0.5",
    "train.batch_size": "64",
    "train.steps": "490",
    "optimizer.lr": "4e-3",
    "schedule.warmup_steps": "40",
}
SEEDS = (0, 1, 2)


class Trained(NamedTuple):
    """What one type of numbers gives.

    Attributes:
      top1: of each seed.
      states: likewise, after the last step.
      overflows: steps that float16 left out, of each seed.
    """

    experiment: Experiment
    top1: list[float]
    states: list[TrainState]
    overflows: list[int]

    @property
    def mean(self) -> float:
        return float(np.mean(self.top1))


def experiment_in(dtype: str) -> Experiment:
    return build(load("digits", {**RECIPE, "train.dtype": dtype}))


@pytest.fixture(scope="module")
def batches() -> dict[int, list[Batch]]:
    """Those of each seed, the same for every type."""
    experiment = experiment_in("float32")
    recipe = experiment.recipe
    examples = experiment.task.examples(experiment.spec, recipe.augment)

    def drawn(seed: int) -> Iterator[Batch]:
        with train_batches(
            experiment.train_source, examples, batch_size=recipe.train.images_per_step, seed=seed
        ) as found:
            yield from islice(found, recipe.train.steps)

    return {seed: list(drawn(seed)) for seed in SEEDS}


def train(dtype: str, batches: dict[int, list[Batch]]) -> Trained:
    """Trains and validates with the run's own parts, compiled once for all seeds: these change weights and batches."""
    experiment = experiment_in(dtype)
    target, optimizer = abstract_state(experiment)
    layout = split_parameters(target, experiment.mesh)
    scale = first_scale(dtype)
    step = compiled_step(experiment, optimizer, layout)
    measure = make_eval_step(experiment.model, experiment.spec, experiment.task, experiment.mesh)
    examples, metric = experiment.task.examples(experiment.spec), experiment.task.metric
    result = Trained(experiment, [], [], [])
    for seed in SEEDS:
        params = jax.tree.map(jnp.asarray, seeded_variables(experiment.model, seed)["params"])
        state = TrainState.create(params, optimizer, ema=True, loss_scale=jax.tree.map(jnp.copy, scale))
        state = jax.device_put(state, layout)
        overflows = 0
        for batch in batches[seed]:
            state, report = step(state, put_batch(batch, experiment.mesh))
            assert report["finite"] or report.get("overflow", False)
            overflows += int(report.get("overflow", 0))
        with eval_batches(experiment.val_source, examples, batch_size=128) as held_out:
            found = evaluate(measure, state.variables(averaged=True), held_out, experiment.mesh, metric)
        assert found.metrics["examples"] == 898
        result.top1.append(found.metrics["top1"])
        result.states.append(state)
        result.overflows.append(overflows)
    return result


@pytest.fixture(scope="module")
def float32(batches: dict[int, list[Batch]]) -> float:
    """What both are compared with: top-1, mean over the seeds."""
    return train("float32", batches).mean


def assert_float32_is_kept(trained: Trained, folder: Path) -> None:
    """Parameters, optimizer and average are float32, as a checkpoint and as the best weights hold them."""
    state = trained.states[0]
    assert {np.dtype(leaf.dtype).name for leaf in jax.tree.leaves(state.stored())} == {"float32", "int32"}
    record: dict[str, Any] = {"metrics": {}, "step": 490, "epoch": 35}
    save_best(folder / "best", trained.experiment, to_host(state.variables(averaged=True)), record)
    assert {value.dtype.name for value in load_file(folder / "best" / WEIGHTS).values()} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_digits_come_out_within_half_a_point(
    tmp_path: Path, batches: dict[int, list[Batch]], float32: float, dtype: str
) -> None:
    half = train(dtype, batches)
    shown = f"float32 {100 * float32:.2f} %, {dtype} {100 * half.mean:.2f} %"
    print(shown, half.top1, half.overflows)
    with trying(f"{dtype} compute", lost=f"top-1 on 898 held-out digits, mean over {len(SEEDS)} seeds: {shown}"):
        assert float32 > 0.96
        assert half.mean >= float32 - 0.005
        assert_float32_is_kept(half, tmp_path)
        for state, overflows in zip(half.states, half.overflows, strict=True):
            if dtype == "float16":
                assert float(state.loss_scale.scale) == 65536 / 2**overflows >= 256
            else:
                assert state.loss_scale is None
