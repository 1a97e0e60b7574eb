"""Steps whose numbers go wrong, and losses that jump: what the loop does, and that a resumed run does the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.contracts import Batch
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.log import RunLog
from crosscale.engine.loop import MOST_VAIN_ROLLBACKS, Loop, Parts, Progress, restore_state
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings, TrainSettings
from crosscale.engine.sharding import data_mesh, replicated
from crosscale.engine.spikes import LEAST, WINDOW, usual_loss
from crosscale.engine.state import TrainState
from crosscale.engine.step import make_eval_step, make_train_step
from crosscale.errors import WorkError
from crosscale.tasks.classification import Classification
from crosscale.tasks.measure import score

STEPS = 10  # of an epoch
TOTAL = 3 * STEPS


class Stream:
    """Batches that depend on the step alone; on some steps NaN weights, on some wrong labels."""

    errors: tuple[str, ...] = ()

    def __init__(self, step: int, nan: frozenset[int], wrong: frozenset[int], visited: list[int]) -> None:
        self._step, self._nan, self._wrong, self._visited = step, nan, wrong, visited

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        rng = np.random.default_rng(self._step)
        self._step += 1
        self._visited.append(self._step)
        label = rng.integers(0, 4, 16, dtype=np.int32)
        image = rng.integers(0, 30, (16, 8, 8, 1), dtype=np.uint8) + (70 * label).astype(np.uint8)[:, None, None, None]
        if self._step in self._wrong:
            label = (label + 2) % 4
        weight = np.full(16, np.nan if self._step in self._nan else 1, np.float32)
        return Batch({"image": image, "label": label}, weight, np.arange(16))

    def close(self) -> None:
        pass


class Harness:
    """Runs the loop with one compiled step; each call is as a process of its own."""

    def __init__(self, make_tiny: Any, spec: Any) -> None:
        self.model, self.params = make_tiny(0.2)
        self.mesh = data_mesh()
        task = Classification(4)
        self.metric = task.metric
        self.score = lambda metrics: score(metrics, task.measures, task.best)
        self.optimizer = make_optimizer(OptimizerSettings(), self.params)
        schedule = lambda step: jnp.float32(0.03)  # noqa: E731
        self.train_step = make_train_step(
            self.model, spec, task, self.optimizer, schedule, self.mesh, seed=0, ema_decay=0.9
        )
        self.eval_step = make_eval_step(self.model, spec, task, self.mesh)

    def go(
        self,
        folder: Path,
        *,
        nan: Any = (),
        wrong: Any = (),
        policy: Any = "rollback",
        every: int | None = 4,
        epochs: int = 3,
        on_epoch: Callable[[], None] = lambda: None,
    ) -> Loop:
        folder.mkdir(exist_ok=True)
        self.visited: list[int] = []
        checkpoints = Checkpoints(folder / "checkpoints", keep=2)
        state = TrainState.create(jax.tree.map(jnp.copy, self.params), self.optimizer, ema=True)
        whole = replicated(self.mesh)
        state = jax.device_put(state, whole)
        target = jax.eval_shape(lambda: state)
        places = jax.tree.map(lambda x: x.sharding, state)
        progress = Progress()
        if (restored := restore_state(checkpoints, target, places)) is not None:
            state, progress = restored[0], Progress(**restored[1])
        parts = Parts(
            train_step=self.train_step,
            eval_step=self.eval_step,
            metric=self.metric,
            mesh=self.mesh,
            open_train=lambda step: Stream(step, frozenset(nan), frozenset(wrong), self.visited),
            open_eval=lambda: Held(),
            score=self.score,
            save_best=lambda params, record: None,
            steps_per_epoch=STEPS,
            settings=TrainSettings(
                epochs=epochs, batch_size=16, log_every=5, checkpoint_every=every, on_nonfinite=policy, ema_decay=0.9
            ),
            use_ema=True,
            restore=lambda: restore_state(checkpoints, target, places),
            on_epoch=on_epoch,
        )
        try:
            with RunLog(folder, start_step=int(state.step), start_epoch=progress.epoch, total_steps=TOTAL) as log:
                loop = Loop(parts, state, progress, checkpoints, log)
                loop.run()
        finally:
            checkpoints.close()
        return loop


class Held(Stream):
    """One held-out batch."""

    def __init__(self) -> None:
        super().__init__(1000, frozenset(), frozenset(), [])

    def __next__(self) -> Batch:
        if self._step > 1000:
            raise StopIteration
        return super().__next__()


@pytest.fixture(scope="module")
def harness(make_tiny: Any, spec: Any) -> Harness:
    return Harness(make_tiny, spec)


def lines(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait", "seconds")
    return [{k: v for k, v in f.items() if k not in timed} for f in found if not kinds or f["kind"] in kinds]


def assert_equal(a: Any, b: Any) -> None:
    for ours, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_rollback_takes_the_checkpoint_s_parameters_and_the_next_data(harness: Harness, tmp_path: Path) -> None:
    """Steps 5, 6 and 7 are forgotten: what follows is as if the run had gone from step 4's state to step 8."""
    rolled = harness.go(tmp_path / "rolled", nan={7}, epochs=1)
    assert harness.visited == list(
        range(1, 11)
    )  # each batch once: the step that had begun is taken again, not its data
    assert lines(tmp_path / "rolled", "nonfinite", "rollback") == [
        {"kind": "nonfinite", "step": 7, "tensor": "conv/bias"},
        {"kind": "rollback", "step": 7, "to": 4},
    ]
    assert (rolled.step, rolled.progress.rollbacks, rolled.progress.skipped_steps) == (10, 1, 1)
    assert rolled.progress.updates == 4 + 3
    log = (tmp_path / "rolled" / "log.txt").read_text()
    assert "step 7: the loss (nan) is not finite; of 4 tensors with such gradients the first is 'conv/bias'" in log
    assert "rolled back: the parameters are those of step 4 again; on with step 8" in log

    skipped = harness.go(tmp_path / "skipped", nan={5, 6, 7}, policy="skip", epochs=1)
    assert_equal(rolled.state, skipped.state)  # parameters, optimizer, average and step number


def test_a_bad_step_before_the_first_checkpoint_goes_back_to_the_beginning(harness: Harness, tmp_path: Path) -> None:
    rolled = harness.go(tmp_path / "rolled", nan={2}, every=None, epochs=1)
    assert lines(tmp_path / "rolled", "rollback") == [{"kind": "rollback", "step": 2, "to": 0}]
    skipped = harness.go(tmp_path / "skipped", nan={1, 2}, policy="skip", epochs=1)
    assert_equal(rolled.state, skipped.state)


def test_a_rolled_back_run_resumes_bit_for_bit(harness: Harness, tmp_path: Path) -> None:
    bad = {"nan": {7, 14, 15, 23}, "wrong": {27}}
    whole = harness.go(tmp_path / "whole", **bad)

    def stop() -> None:
        raise OSError("pulled")

    for _ in range(2):
        with pytest.raises(OSError, match="pulled"):  # as if killed, after the first epoch and after the second
            harness.go(tmp_path / "run", **bad, on_epoch=stop)
    rest = harness.go(tmp_path / "run", **bad)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert rest.progress.best is not None
    assert whole.progress.best is not None
    del rest.progress.best["metrics"], whole.progress.best["metrics"]  # the score has the same numbers without times
    assert rest.progress == whole.progress
    assert_equal(rest.state, whole.state)


def test_rollbacks_that_get_nowhere_end_the_run(harness: Harness, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"^step 12: .*'conv/bias'; 3 rollbacks in a row did not get beyond it"):
        harness.go(tmp_path / "run", nan=set(range(9, 40)))
    assert len(lines(tmp_path / "run", "rollback")) == MOST_VAIN_ROLLBACKS


@pytest.mark.slow
def test_rollbacks_with_progress_between_them_go_on(harness: Harness, tmp_path: Path) -> None:
    loop = harness.go(tmp_path / "run", nan={5, 9, 13, 17, 21, 25})
    assert (loop.step, loop.progress.rollbacks) == (TOTAL, 6)


@pytest.mark.slow
def test_a_spike_is_logged_once(harness: Harness, tmp_path: Path) -> None:
    loop = harness.go(tmp_path / "run", wrong={24, 25}, policy="error")
    (spike,) = lines(tmp_path / "run", "spike")
    assert (spike["step"], spike["kind"]) == (24, "spike")
    assert spike["loss"] > spike["limit"] > spike["usual"]
    assert "loss spike at step 24" in (tmp_path / "run" / "log.txt").read_text()
    assert len(loop.progress.recent_losses) == TOTAL <= WINDOW


def test_the_usual_loss_is_robust() -> None:
    rng = np.random.default_rng(0)
    losses = list(rng.normal(2.0, 0.1, WINDOW))
    middle, limit = usual_loss(losses) or (0, 0)
    assert middle == pytest.approx(2.0, abs=0.05)
    assert limit == pytest.approx(2.8, abs=0.3)
    spiked = usual_loss([*losses[:-5], *[50.0] * 5])  # the mean would be 5.8 and the deviation 13
    assert spiked == pytest.approx((middle, limit), abs=0.3)


def test_few_losses_say_nothing_and_equal_ones_leave_room() -> None:
    assert usual_loss([1.0] * (LEAST - 1)) is None
    assert usual_loss([1.0] * LEAST) == pytest.approx((1.0, 1.1))
    assert usual_loss([0.0] * LEAST) == (0.0, 0.0)
