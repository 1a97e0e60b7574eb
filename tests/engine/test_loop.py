"""The loop on a tiny model: a signal in the middle of a validation loses nothing and repeats nothing."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.contracts import Batch
from crosscale.engine.averages import Meter, add, means
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.length import run_length
from crosscale.engine.log import RunLog
from crosscale.engine.loop import Loop, Parts, Progress, restore_state
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings, TrainSettings
from crosscale.engine.sharding import data_mesh, replicated
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step, make_train_step
from crosscale.tasks.classification import Classification
from crosscale.tasks.measure import score

STEPS_PER_EPOCH = 4
SETTINGS = TrainSettings(epochs=3, batch_size=16, log_every=3)


class Stream:
    """Batches that depend on the step alone."""

    errors: tuple[str, ...] = ()

    def __init__(self, step: int, stop: int | None = None, before: Callable[[], None] = lambda: None) -> None:
        self._step, self._stop, self._before = step, stop, before
        self.closed = False

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        if self._step == self._stop:
            raise StopIteration
        self._before()
        rng = np.random.default_rng(self._step)
        self._step += 1
        label = rng.integers(0, 4, 16, dtype=np.int32)
        image = rng.integers(0, 60, (16, 8, 8, 1), dtype=np.uint8) + (60 * label).astype(np.uint8)[:, None, None, None]
        return Batch({"image": image, "label": label}, np.ones(16, np.float32), np.arange(16))

    def close(self) -> None:
        self.closed = True


class Runs:
    """Starts the same run again and again, as separate processes would."""

    def __init__(self, make_tiny: Any, spec: Any) -> None:
        self.model, self.params = make_tiny(0.2)
        self.mesh = data_mesh()
        task = Classification(4)
        self.optimizer = make_optimizer(OptimizerSettings(), self.params)
        schedule = lambda step: jnp.float32(0.02)  # noqa: E731
        self.train_step = make_train_step(self.model, spec, task, self.optimizer, schedule, self.mesh, seed=0)
        self.eval_step = make_eval_step(self.model, spec, task, self.mesh)
        self.metric = task.metric
        self.score = lambda metrics: score(metrics, task.measures, task.best)

    def go(
        self,
        folder: Path,
        in_validation: Callable[[], None] = lambda: None,
        settings: TrainSettings = SETTINGS,
        patience_from: int = 0,
    ) -> Loop:
        folder.mkdir(exist_ok=True)
        saved: list[Any] = []
        parts = Parts(
            train_step=self.train_step,
            eval_step=self.eval_step,
            metric=self.metric,
            mesh=self.mesh,
            open_train=Stream,
            open_eval=lambda: Stream(1000, 1003, in_validation),
            score=self.score,
            save_best=lambda params, record: saved.append(record),
            steps_per_epoch=STEPS_PER_EPOCH,
            settings=settings,
            use_ema=True,
        )
        state = jax.device_put(
            TrainState.create(jax.tree.map(jnp.copy, self.params), self.optimizer, ema=False), replicated(self.mesh)
        )
        checkpoints = Checkpoints(folder / "checkpoints", keep=2)
        progress = Progress()
        if (restored := restore_state(checkpoints, state, replicated(self.mesh))) is not None:
            state, progress = restored[0], Progress(**restored[1])
        progress.patience_from = patience_from
        length = run_length(settings, STEPS_PER_EPOCH)
        start = length.epochs(length.end(progress.epoch))
        with RunLog(folder, start_step=int(state.step), start_epoch=start, total_steps=length.total) as log:
            loop = Loop(parts, state, progress, checkpoints, log)
            loop.run()
        checkpoints.close()
        return loop


@pytest.fixture(scope="module")
def runs(make_tiny: Any, spec: Any) -> Runs:
    return Runs(make_tiny, spec)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait", "seconds")} for line in lines]


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_signal_in_a_validation_is_answered_and_the_validation_comes_again(runs: Runs, tmp_path: Path) -> None:
    whole = runs.go(tmp_path / "whole")
    assert (whole.step, whole.progress.epoch, whole.stopped) == (12, 3, None)

    first = runs.go(tmp_path / "run", terminate)
    assert (first.step, first.progress.epoch, first.stopped) == (4, 0, "SIGTERM")
    again = runs.go(tmp_path / "run", terminate)  # stopped at the same place, once more
    assert (again.step, again.progress.epoch) == (4, 0)
    rest = runs.go(tmp_path / "run")
    assert (rest.step, rest.progress.epoch, rest.stopped) == (12, 3, None)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert rest.progress.best is not None
    assert whole.progress.best is not None
    assert rest.progress.best["score"] == whole.progress.best["score"]
    assert rest.progress.best is not None
    assert whole.progress.best is not None
    assert rest.progress.best["score"] == whole.progress.best["score"]
    for a, b in zip(jax.tree.leaves(rest.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_counted_in_steps_stops_in_a_validation_and_goes_on_to_the_same(runs: Runs, tmp_path: Path) -> None:
    settings = TrainSettings(steps=7, eval_steps=3, batch_size=16, log_every=3)
    whole = runs.go(tmp_path / "whole", settings=settings)
    assert (whole.step, whole.progress.epoch, whole.stopped) == (7, 3, None)
    validations = [line for line in metrics(tmp_path / "whole") if line["kind"] == "validate"]
    assert [(line["step"], line["epoch"]) for line in validations] == [(3, 0.75), (6, 1.5), (7, 1.75)]

    first = runs.go(tmp_path / "run", terminate, settings)
    assert (first.step, first.progress.epoch, first.stopped) == (3, 0, "SIGTERM")
    rest = runs.go(tmp_path / "run", settings=settings)
    assert (rest.step, rest.progress.epoch, rest.stopped) == (7, 3, None)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    for a, b in zip(jax.tree.leaves(rest.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_counted_in_steps_ends_without_patience(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is better than the first validation, at step 3: two passes of four steps later it ends."""
    monkeypatch.setattr(runs, "score", lambda metrics: (0.0,))
    patient = TrainSettings(steps=50, eval_steps=3, batch_size=16, early_stop_epochs=2)
    loop = runs.go(tmp_path / "run", settings=patient)
    assert (loop.step, loop.stopped) == (12, None)


def test_patience_ends_a_run_at_a_validation_alone_and_says_so(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Validated at epochs 3 and 6: two epochs of patience are over at epoch 5, and judged at 6."""
    monkeypatch.setattr(runs, "score", lambda metrics: (0.0,))
    patient = TrainSettings(epochs=9, eval_every=3, batch_size=16, early_stop_epochs=2)
    loop = runs.go(tmp_path / "run", settings=patient)
    assert (loop.progress.epoch, loop.stopped) == (6, None)
    assert "no better validation for 3 epochs: stopped" in capsys.readouterr().err
    again = runs.go(tmp_path / "run", settings=patient)  # as --resume
    assert (again.progress.epoch, again.stopped) == (6, None)
    assert "no better validation for 3 epochs: stopped" in capsys.readouterr().err
    extended = runs.go(tmp_path / "run", settings=patient, patience_from=24)
    assert extended.progress.epoch == 9


def test_the_handlers_of_before_come_back(runs: Runs, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    runs.go(tmp_path / "run")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_windows_and_epochs_count_every_step_once(runs: Runs, tmp_path: Path) -> None:
    runs.go(tmp_path / "run")
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [3, 6, 9, 12]
    windows = [line["loss"] for line in lines if line["kind"] == "train"]
    epochs = [line["train_loss"] for line in lines if line["kind"] == "epoch"]
    assert np.mean(windows) == pytest.approx(np.mean(epochs), rel=1e-6)  # 4 windows of 3 steps, 3 epochs of 4


def test_sums_add_up_to_means() -> None:
    sums = add({"loss": (2.0, 4.0)}, {"loss": (1.0, 2.0), "top1": (0.0, 0.0)})
    assert means(sums)["loss"] == 0.5
    assert np.isnan(means(sums)["top1"])


def test_the_meter_counts_only_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Meter()
    for pause in (0.0, 100.0):  # what happens between pause and start is no training
        now[0] += pause
        meter.start()
        now[0] += 2.0
        meter.images += 10
        meter.waited += 0.5
        meter.pause()
    assert meter.read() == (5.0, 0.25)
    assert meter.rate == 5.0
    assert np.isnan(Meter().rate)
