"""The training loop: steps, validations, checkpoints and the best weights so far."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from crosscale.cluster.hosts import Stop, stop_signals
from crosscale.contracts import Array, Batch, Variables
from crosscale.engine.averages import Meter, add, means
from crosscale.engine.checkpoint import Checkpoints
from crosscale.engine.evaluate import Interrupted, evaluate
from crosscale.engine.length import run_length
from crosscale.engine.log import RunLog
from crosscale.engine.progress import Progress as Progress
from crosscale.engine.settings import TrainSettings
from crosscale.engine.sharding import put_batch, to_host
from crosscale.engine.spikes import WINDOW, usual_loss
from crosscale.engine.state import TrainState
from crosscale.engine.step import EvalStep, TrainStep, parameter_names
from crosscale.errors import WorkError
from crosscale.runtime import shown_duration
from crosscale.tasks.metric import Metric

MOST_VAIN_ROLLBACKS = 3
_LONG_COMPILATION = 20.0  # seconds; a shorter one is not worth a line
_PACE_SECONDS = 5.0  # of steps, after which the rest of the run is estimated
_LONG_REST = 30.0


class Batches(Iterator[Batch], Protocol):
    """What the loop reads from. `errors` has a line for each picture of the latest batch that was skipped."""

    errors: tuple[str, ...]

    def close(self) -> None: ...


Restored = tuple[TrainState, dict[str, Any]]


@dataclass(frozen=True)
class Parts:
    """What the loop works with.

    Attributes:
      metric: of the validation that `eval_step` was made for.
      open_train: the batches from a step on.
      open_eval: one pass over the held-out data.
      score: of a validation's metrics; the larger of two tuples is the better.
      save_best: writes the weights of the best validation: (variables, record).
      restore: the newest checkpoint's state and progress, None where there is none.
      on_epoch: called after each epoch, or span of a run counted in steps, when its metrics are written and its
        validation, if one was due, is done.
      shown: a number of a validation, by name, as the log shows it.
    """

    train_step: TrainStep
    eval_step: EvalStep
    metric: Metric
    mesh: Mesh
    open_train: Callable[[int], Batches]
    open_eval: Callable[[], Batches]
    score: Callable[[Mapping[str, float]], tuple[float, ...]]
    save_best: Callable[[Any, Mapping[str, Any]], None]
    steps_per_epoch: int
    settings: TrainSettings
    use_ema: bool
    restore: Callable[[], Restored | None] = lambda: None
    validates: bool = True
    on_epoch: Callable[[], None] = lambda: None
    shown: Callable[[str, float], str] = lambda name, value: f"{name} {value:.4f}"


def restore_state(checkpoints: Checkpoints, target: TrainState, layout: Any) -> Restored | None:
    """The newest checkpoint that can be read, None where there is none; see `Checkpoints.restore`.

    Args:
      target: a state of the same structure, for the shapes and types.
      layout: the shardings of its arrays, one for all or a state of them.
    """
    places = layout.stored() if isinstance(layout, TrainState) else layout
    found = checkpoints.restore(target.stored(), places)
    return found and (TrainState(**found[0]), found[1])


class Loop:
    """Trains from `state` to the end, or until a signal asks to stop.

    Attributes:
      state: the latest.
      progress: likewise.
      step: steps taken.
      stopped: the name of the signal that stopped the run, or None.
      length: of the run, and its spans.
      began: when this process began, by `time.monotonic`.
    """

    def __init__(
        self, parts: Parts, state: TrainState, progress: Progress, checkpoints: Checkpoints, log: RunLog
    ) -> None:
        self.parts = parts
        self.length = run_length(parts.settings, parts.steps_per_epoch)
        self.state = state
        self.progress = progress
        self.step = int(state.step)
        self.stopped: str | None = None
        self.meter = Meter()
        self._checkpoints = checkpoints
        self._log = log
        self._names = parameter_names(state.params)
        # The report of the latest step: it is read while the next step runs.
        self._pending: dict[str, Array] | None = None
        self._reported: set[str] = set()
        self._compiled = False
        # A line says once how long the rest takes, when the first steps have shown how long one takes.
        self._to_go_told = False
        self.began = self._since = time.monotonic()  # the second becomes the latest epoch's end

    def run(self) -> None:
        """Trains. On return the last state is on disc.

        Raises:
          WorkError: a loss or gradient was not finite, or a picture did not decode, and the settings do
            not say to skip that; the folder was moved.
        """
        settings, length = self.parts.settings, self.length
        batches: Batches | None = None
        with stop_signals() as signals:
            try:
                if settings.on_nonfinite == "rollback" and self.step == 0:
                    self._checkpoint()  # something to go back to
                while not signals.requested:
                    done = self.progress.epoch
                    if done < length.spans and self.step == length.end(done + 1):
                        self._finish_span(signals)
                        continue
                    if self.step >= length.total:
                        break
                    if self._out_of_patience():
                        waited = length.epochs(self._since_better())
                        self._log.line(f"no better validation for {waited:.4g} epoch{'s' * (waited != 1)}: stopped")
                        break
                    if batches is None:
                        batches = self.parts.open_train(self.step)
                    self._take_step(batches)
                    every = settings.checkpoint_every
                    if every and self.step % every == 0 and self.step != length.end(done + 1):
                        self._checkpoint()
                self._checkpoint()
                self._checkpoints.wait()
            except FileNotFoundError:  # from anything written to where the folder was
                self._log.check_place()
                raise
            finally:
                if batches is not None:
                    batches.close()
            if self.progress.epoch < length.spans and not self._out_of_patience():
                self.stopped = signals.requested

    def _take_step(self, batches: Batches) -> None:
        self.meter.start()
        began = time.perf_counter()
        batch = next(batches)
        self.meter.waited += time.perf_counter() - began
        self._name_skipped(batches.errors)
        placed = put_batch(batch, self.parts.mesh)
        state, report = self.parts.train_step(self.state, placed)
        if self._flush():  # the step began from a state that is given up
            state, report = self.parts.train_step(self.state, placed)
        self.state, self._pending = state, report
        self.step += 1
        if self._compiled:
            self.meter.images += len(batch.weight) * jax.process_count()
        else:  # the first step compiles, which says nothing about the speed
            jax.block_until_ready(report)
            self._compiled, self.meter = True, Meter()
            self._first = self.step, time.monotonic()
            if (seconds := self._first[1] - began) > _LONG_COMPILATION:
                self._log.line(f"compiled in {shown_duration(seconds)}")
        self._tell_to_go()
        self._log.tick(self.step)
        if self.step % self.parts.settings.log_every == 0:
            self._log_window()

    def _name_skipped(self, errors: Sequence[str]) -> None:
        """A line for each picture that did not decode, the first time."""
        for error in errors:
            if error not in self._reported:
                self._reported.add(error)
                self._log.here(f"skipped: {error}")

    def _tell_to_go(self) -> None:
        """A line, once, on how long the rest takes at the pace of the first steps; a short rest is not worth one."""
        steps, passed = self.step - self._first[0], time.monotonic() - self._first[1]
        if self._to_go_told or steps < 2 or passed < _PACE_SECONDS:
            return
        self._to_go_told = True
        left = self.length.total - self.step
        if (seconds := left * passed / steps) > _LONG_REST:
            self._log.line(f"about {shown_duration(seconds)} to go, validations apart")

    def _flush(self) -> bool:
        """Reads the latest step's report, unless that was done; returns whether `state` went back for it."""
        if self._pending is None:
            return False
        report, self._pending = jax.device_get(self._pending), None
        self.progress.skipped_images += int(report["skipped"])
        if not report["finite"]:
            return self._not_finite(report)
        weight = float(report["weight"])
        parts = [name for name in report if name.startswith("loss_")]
        scale = [name for name in report if name == "scale"]
        values = {name: (float(report[name]) * weight, weight) for name in ("loss", *parts, "grad_norm", "lr", *scale)}
        self.progress.window = add(self.progress.window, values)
        self.progress.epoch_sums = add(self.progress.epoch_sums, values)
        if weight:
            self._count_update(float(report["loss"]))
        return False

    def _count_update(self, loss: float) -> None:
        progress = self.progress
        progress.updates += 1
        if progress.updates > progress.most_updates:
            progress.most_updates, progress.vain_rollbacks = progress.updates, 0
        usual = usual_loss(progress.recent_losses)
        spiking = usual is not None and loss > usual[1]
        if usual is not None and spiking and not progress.spiking:  # only the first of several in a row
            self._log.line(f"loss spike at step {self.step}: {loss:.4f}, where {usual[0]:.4f} has been usual")
            self._log.record("spike", self.step, {"loss": loss, "usual": usual[0], "limit": usual[1]})
        progress.spiking = spiking
        progress.recent_losses = [*progress.recent_losses, loss][-WINDOW:]

    def _not_finite(self, report: Mapping[str, Any]) -> bool:
        """Ends the run, or leaves the step out; returns whether `state` went back to a checkpoint."""
        bad = [name for name, is_bad in zip(self._names, report["bad"], strict=True) if is_bad]
        loss = float(report["loss"])
        what = "a gradient" if math.isfinite(loss) else f"the loss ({loss})"
        where = f"; of {len(bad)} tensors with such gradients the first is '{bad[0]}'" if bad else ""
        message = f"step {self.step}: {what} is not finite{where}"
        if report.get("overflow"):
            self._count_overflow(message, float(report["scale"]))
            return False
        if self.parts.settings.on_nonfinite == "error":
            raise WorkError(
                f"{message}; a lower optimizer.lr, optimizer.clip_norm or train.on_nonfinite=skip|rollback may help"
            )
        self.progress.skipped_steps += 1
        self._log.line(f"left out: {message}")
        self._log.record("nonfinite", self.step, {"tensor": bad[0] if bad else "loss"})
        if self.parts.settings.on_nonfinite == "rollback":
            self._roll_back(message)
            return True
        return False

    def _count_overflow(self, message: str, scale: float) -> None:
        """Counts a step whose scaled gradient was too large for float16: the next ones have half the scale."""
        self.progress.skipped_steps += 1
        self._log.line(f"left out: {message}, at the loss scale {scale:g}; on with half of it")
        self._log.record("overflow", self.step, {"scale": scale})

    def _roll_back(self, message: str) -> None:
        """The newest checkpoint's parameters, optimizer and average; the step, and with it the data, goes on."""
        progress = self.progress
        if progress.vain_rollbacks == MOST_VAIN_ROLLBACKS:
            raise WorkError(
                f"{message}; {MOST_VAIN_ROLLBACKS} rollbacks in a row did not get beyond it: a lower optimizer.lr or "
                "optimizer.clip_norm may help"
            )
        self._checkpoints.wait()
        restored = self.parts.restore()
        if restored is None:
            raise WorkError(f"{message}; there is no checkpoint to go back to")
        state, saved = restored
        origin = int(state.step)
        self.state = state.replace(step=jax.device_put(np.int32(self.step), state.step.sharding))
        before = Progress(**saved)
        progress.updates, progress.recent_losses, progress.spiking = (
            before.updates,
            before.recent_losses,
            before.spiking,
        )
        progress.rollbacks += 1
        progress.vain_rollbacks += 1
        self._log.line(f"rolled back: the parameters are those of step {origin} again; on with step {self.step + 1}")
        self._log.record("rollback", self.step, {"to": origin})

    def _log_window(self) -> None:
        self._flush()
        rate, waiting = self.meter.read()
        sums, self.progress.window = self.progress.window, {}
        values: dict[str, Any] = {"epoch": self.step / self.length.per_epoch, **means(sums)}
        self._log.record("train", self.step, {**values, "images_per_second": rate, "data_wait": waiting})
        pace = f"{rate:.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"
        text = (
            f"step {self.step}/{self.length.total}  loss {values.get('loss', math.nan):.4f}  "
            f"lr {values.get('lr', math.nan):.2e}  {pace}  waiting for data {waiting:.0%}"
        )
        self._log.window_line(self.step, text, f"loss {values.get('loss', math.nan):.4f}  {pace}")

    def _finish_span(self, signals: Stop) -> None:
        """Validates where that is due, keeps the best, and saves."""
        self._log.check_place()
        self._flush()
        self.meter.pause()
        done, length = self.progress.epoch + 1, self.length
        epoch = length.epochs(self.step)
        validation: dict[str, float] | None = None
        self._check_decoded(length.shown(done))
        if self.parts.validates and length.validates(done):
            try:
                validation = self._validate(signals)
            except Interrupted:
                return
        train = means(self.progress.epoch_sums)
        train_loss = train.get("loss", math.nan)
        self.progress.epoch, self.progress.epoch_sums = done, {}
        passed = time.monotonic() - self._since
        self._since += passed
        values = {"epoch": epoch, "train_loss": train_loss, "lr": train.get("lr", math.nan), "seconds": passed}
        self._log.record("epoch", self.step, values)
        whole = length.spans if length.counts_epochs else length.total
        text = f"{length.shown(done)}/{whole}  train loss {train_loss:.4f}"
        score: tuple[float, ...] | None = None
        if validation is not None:
            self._log.record("validate", self.step, {"epoch": epoch, **validation})
            score = self.parts.score(validation)
            silent = ("examples", "skipped", "images_per_second")
            # "iou/dog": a class's own numbers are in metrics.jsonl and on the report; here they would fill the screen
            shown = [name for name in validation if name not in silent and "/" not in name]
            text += "  validation " + "  ".join(self.parts.shown(name, validation[name]) for name in shown)
            if self.progress.best is None or score > tuple(self.progress.best["score"]):
                text += "  (best)"
                self._keep_best(epoch, validation, score)
        elif not self.parts.validates and done == length.spans:
            self._keep_best(epoch, {}, ())  # nothing to choose by: the last weights are the ones to use
        self._log.line(text)
        self._checkpoint(score)
        self.parts.on_epoch()

    def _check_decoded(self, span: str) -> None:
        """Raises WorkError where every picture of the span was skipped: nothing has been learnt."""
        counted = self.progress.epoch_sums.get("loss")
        if counted is not None and not counted[1]:
            raise WorkError(f"{span}: none of its pictures could be decoded, so nothing was learnt; the log names them")

    def _validate(self, signals: Stop) -> dict[str, float]:
        batches = self.parts.open_eval()
        try:
            found = evaluate(
                self.parts.eval_step,
                self._validated(),
                batches,
                self.parts.mesh,
                self.parts.metric,
                should_stop=lambda: signals.requested is not None,
            )
        finally:
            batches.close()
        self._name_skipped(found.errors)
        return found.metrics

    def _validated(self) -> Variables:
        return self.state.variables(averaged=self.parts.use_ema)

    def _keep_best(self, epoch: float, metrics: dict[str, float], score: tuple[float, ...]) -> None:
        best = {"step": self.step, "epoch": round(epoch, 2), "score": list(score), "metrics": metrics}
        self.parts.save_best(to_host(self._validated()), best)
        self.progress.best = best

    def _out_of_patience(self) -> bool:
        """Whether the latest span ended with a validation, and none was better for as long as the settings wait."""
        patience, length = self.parts.settings.early_stop_epochs, self.length
        if patience is None or self.progress.best is None or not length.validates(self.progress.epoch):
            return False
        return self._since_better() >= patience * length.per_epoch

    def _since_better(self) -> int:
        """Steps since the best validation, or since the run was extended."""
        best = self.progress.best or {"step": 0}
        return self.length.end(self.progress.epoch) - max(int(best["step"]), self.progress.patience_from)

    def _checkpoint(self, score: tuple[float, ...] | None = None) -> None:
        self._log.check_place()
        self._flush()
        self.meter.pause()
        self._checkpoints.save(self.step, self.state.stored(), asdict(self.progress), score)
