"""Loss scaling: it changes no gradient that fits, leaves out what does not, and goes on from a checkpoint alike."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.contracts import Batch
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.log import RunLog
from crosscale.engine.loop import Loop, Parts, Progress, restore_state
from crosscale.engine.loss_scale import LEAST, first_scale
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings, TrainSettings
from crosscale.engine.sharding import data_mesh, replicated
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step, make_train_step
from crosscale.errors import WorkError
from crosscale.tasks.classification import Classification
from crosscale.tasks.measure import score
from tests.engine.test_loop import Stream
from tests.variants import variants

# In float32, as 65,536 may be in float16: with pictures that count a thousandfold the scaled gradient is not finite.
BEYOND, WEIGHT = 2.0**122, 1000.0


class Steps:
    """Steps of the tiny model in float32, compiled once for each number of parts."""

    def __init__(self, make_tiny: Any, spec: Any) -> None:
        self.model, self.params = make_tiny(0.0)
        self.spec, self.task, self.mesh = spec, Classification(4), data_mesh()
        self.optimizer = make_optimizer(OptimizerSettings("sgd"), self.params)
        self._made: dict[int, Any] = {}

    def state(self, scale: float | None, finite: int = 0) -> TrainState:
        """A fresh state; a step gives its buffers up."""
        begun = None
        if scale is not None:
            begun = first_scale("float16").replace(scale=jnp.float32(scale), fin_steps=jnp.int32(finite))
        params = jax.tree.map(jnp.copy, self.params)
        return TrainState.create(params, self.optimizer, ema=True, loss_scale=begun)

    def step(self, parts: int = 1) -> Any:
        if parts not in self._made:
            how: dict[str, Any] = {"seed": 0, "accumulate": parts, "ema_decay": 0.9}
            rate = lambda step: jnp.float32(0.05)  # noqa: E731
            self._made[parts] = make_train_step(
                self.model, self.spec, self.task, self.optimizer, rate, self.mesh, **how
            )
        return self._made[parts]


class Heavy(Stream):
    """Its batches, with that weight."""

    def __next__(self) -> Batch:
        batch = super().__next__()
        return batch._replace(weight=WEIGHT * batch.weight)


@pytest.fixture(scope="module")
def heavy(device_batch: Any) -> dict[str, Any]:
    return {**device_batch, "weight": jnp.full(16, WEIGHT)}


@pytest.fixture(scope="module")
def steps(make_tiny: Any, spec: Any) -> Steps:
    return Steps(make_tiny, spec)


def learnt(state: TrainState) -> list[Any]:
    """Everything that a step that is left out must not touch."""
    return jax.tree.leaves((state.params, state.opt_state, state.ema_params))


def assert_equal(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_float16_is_scaled() -> None:
    assert first_scale("float32") is None
    assert first_scale("bfloat16") is None
    assert float(first_scale("float16").scale) == 65536


@pytest.mark.parametrize("parts", variants([1, 2], {1}))
def test_a_scale_that_fits_changes_no_step(steps: Steps, device_batch: Any, parts: int) -> None:
    plain, report = steps.step(parts)(steps.state(None), device_batch)
    scaled, told = steps.step(parts)(steps.state(65536.0), device_batch)
    assert not ({"scale", "overflow"} & set(report))
    assert (float(told["scale"]), bool(told["overflow"]), bool(told["finite"])) == (65536, False, True)
    assert float(told["loss"]) == pytest.approx(float(report["loss"]), rel=1e-6)
    assert float(told["grad_norm"]) == pytest.approx(float(report["grad_norm"]), rel=1e-5)
    for ours, theirs in zip(learnt(scaled), learnt(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert (float(scaled.loss_scale.scale), int(scaled.loss_scale.fin_steps)) == (65536, 1)


@pytest.mark.parametrize("parts", variants([1, 2], {1}))
def test_a_gradient_that_overflows_is_left_out_and_halves_the_scale_once(steps: Steps, heavy: Any, parts: int) -> None:
    before = jax.device_get(learnt(steps.state(BEYOND)))
    state, report = steps.step(parts)(steps.state(BEYOND, finite=7), heavy)
    assert (bool(report["finite"]), bool(report["overflow"]), int(state.step)) == (False, True, 1)
    assert np.isfinite(float(report["loss"]))
    assert (float(state.loss_scale.scale), int(state.loss_scale.fin_steps)) == (BEYOND / 2, 0)
    assert_equal(learnt(state), before)


@pytest.mark.slow
def test_one_part_that_overflows_is_enough(steps: Steps, device_batch: Any) -> None:
    """Example i is in part i % 2; the second part has no gradient at all."""
    weight = jnp.asarray([WEIGHT, 0.0] * 8)
    state, report = steps.step(2)(steps.state(BEYOND), {**device_batch, "weight": weight})
    assert bool(report["overflow"])
    assert float(state.loss_scale.scale) == BEYOND / 2


def test_the_scale_doubles_after_two_thousand_finite_steps(steps: Steps, device_batch: Any) -> None:
    state, report = steps.step()(steps.state(8.0, finite=2000), device_batch)
    assert (float(report["scale"]), float(state.loss_scale.scale), int(state.loss_scale.fin_steps)) == (8, 16, 0)


def test_what_no_scale_cures_is_not_called_an_overflow(steps: Steps, device_batch: Any, heavy: Any) -> None:
    nan = {**device_batch, "weight": jnp.full(16, jnp.nan)}
    state, report = steps.step()(steps.state(65536.0), nan)  # the loss itself
    assert (bool(report["finite"]), bool(report["overflow"]), float(state.loss_scale.scale)) == (False, False, 65536)
    # A finite loss whose gradient is not, at the least scale: large weights behind pictures that are black.
    begun = steps.state(LEAST)
    large = jnp.full((8, 4), -3e38).at[:, 0].set(3e38)
    begun = begun.replace(params={**begun.params, "head": {**begun.params["head"], "kernel": large}})
    black = {**heavy, "image": jnp.full_like(heavy["image"], 102)}  # 0, but for rounding, when normalised
    state, report = steps.step()(begun, black)
    assert np.isfinite(float(report["loss"]))
    assert (bool(report["finite"]), bool(report["overflow"]), float(state.loss_scale.scale)) == (False, False, LEAST)


class Runs:
    """The same run again and again, as separate processes would start it."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.eval_step = make_eval_step(steps.model, steps.spec, steps.task, steps.mesh)

    def go(self, folder: Path, *, scale: float, epochs: int = 2, policy: Any = "error") -> Loop:
        folder.mkdir(exist_ok=True)
        task, mesh = self.steps.task, self.steps.mesh
        checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        state = jax.device_put(self.steps.state(scale), replicated(mesh))
        progress = Progress()
        if (restored := restore_state(checkpoints, state, replicated(mesh))) is not None:
            state, progress = restored[0], Progress(**restored[1])
        settings = TrainSettings(epochs=epochs, batch_size=16, log_every=1, on_nonfinite=policy, ema_decay=0.9)
        parts = Parts(
            train_step=self.steps.step(),
            eval_step=self.eval_step,
            metric=task.metric,
            mesh=mesh,
            open_train=Heavy,
            open_eval=lambda: Stream(1000, 1001),
            score=lambda metrics: score(metrics, task.measures, task.best),
            save_best=lambda params, record: None,
            steps_per_epoch=3,
            settings=settings,
            use_ema=True,
        )
        try:
            with RunLog(folder, start_step=int(state.step), start_epoch=progress.epoch, total_steps=3 * epochs) as log:
                loop = Loop(parts, state, progress, checkpoints, log)
                loop.run()
        finally:
            checkpoints.close()
        return loop


@pytest.fixture(scope="module")
def runs(steps: Steps) -> Runs:
    return Runs(steps)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in f.items() if k not in ("images_per_second", "data_wait", "seconds")} for f in lines]


@pytest.mark.slow
def test_overflows_are_counted_and_logged_and_a_resumed_run_is_the_same(runs: Runs, tmp_path: Path) -> None:
    whole = runs.go(tmp_path / "whole", scale=BEYOND)
    overflows = [line for line in records(tmp_path / "whole") if line["kind"] == "overflow"]
    assert [line["scale"] for line in overflows] == [BEYOND / 2**i for i in range(len(overflows))]
    assert len(overflows) == whole.progress.skipped_steps >= 1
    assert whole.progress.updates == whole.step - len(overflows) >= 1
    scales = [line.get("scale") for line in records(tmp_path / "whole") if line["kind"] == "train"]
    assert scales[-1] == float(whole.state.loss_scale.scale) == BEYOND / 2 ** len(overflows)
    log = (tmp_path / "whole" / "log.txt").read_text()
    assert "left out: step 1: a gradient is not finite; of " in log
    assert f"at the loss scale {BEYOND:g}; on with half of it" in log

    runs.go(tmp_path / "run", scale=BEYOND, epochs=1)
    rest = runs.go(tmp_path / "run", scale=4.0)  # the checkpoint's scale holds
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert_equal(jax.tree.leaves(rest.state), jax.tree.leaves(whole.state))


@pytest.mark.slow
def test_below_the_least_scale_a_run_does_not_go_on_for_ever(runs: Runs, tmp_path: Path) -> None:
    params = runs.steps.params
    runs.steps.params = {**params, "head": {**params["head"], "kernel": jnp.full((8, 4), jnp.nan)}}
    try:
        with pytest.raises(WorkError, match="step 1: the loss"):
            runs.go(tmp_path / "run", scale=65536.0)
    finally:
        runs.steps.params = params
