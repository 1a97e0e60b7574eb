"""Where a run's numbers go in addition to its own files: TensorBoard, Weights & Biases, MLflow and Trackio.

A tracker that fails is left out from then on, with a line: what it shows is no reason to lose a training.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from crosscale.engine.run_folder import write_text
from crosscale.errors import RequestError
from crosscale.runtime import is_installed

IDENTITY = "trackers.json"
"""In the run folder: what the trackers call the run, so that one that goes on is the same run there."""
PROJECT = "crosscale"
_FLUSH_SECONDS = 60.0  # a flush waits for the disc
_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
# A server that does not answer would hold up every line of the log, seven times two minutes each.
_MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told about a run.

    Attributes:
      folder: the run's.
      start_step: it goes on from here; 0 begins anew.
      recipe: nested dictionaries, as YAML gives them.
    """

    folder: Path
    start_step: int
    recipe: Mapping[str, Any]

    def identity(self, tracker: str, make: Callable[[], str]) -> str:
        """What the tracker calls this run: as noted in its folder, or newly made and noted."""
        path = self.folder / IDENTITY
        known: dict[str, Any] = {}
        if self.start_step:
            with suppress(OSError, ValueError):
                known = dict(json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(known.get(tracker), str):
            known[tracker] = make()
            write_text(path, json.dumps(known))
        return str(known[tracker])


class Tracker(Protocol):
    """One of them, open."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step by name, such as "train/loss"."""
        ...

    def close(self, *, failed: bool) -> None:
        """Writes what is left."""
        ...


class TensorBoard:
    """A TensorBoard event file, written by the caller's thread.

    `SummaryWriter` writes from a thread of its own, which an error of the disc ends; the caller then waits for it for
    ever.
    """

    def __init__(self, run: Tracked) -> None:
        """TensorBoard hides what earlier files hold of the steps after `start_step`."""
        folder = run.folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        start = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=run.start_step + 1, wall_time=time.time(), session_log=start))
        self._flushed = time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.write_event(Event(step=step, wall_time=time.time(), summary=scalar(name, value)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self, *, failed: bool) -> None:
        self._events.close()


class WandB:
    """Weights & Biases; its own variables say where to (WANDB_PROJECT, WANDB_MODE=offline, WANDB_API_KEY, ...).

    The step is a number of its own beside the others, "step": W&B's steps never go back, where those of a run that
    goes on from a checkpoint do.
    """

    def __init__(self, run: Tracked) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            id=run.identity("wandb", lambda: uuid.uuid4().hex[:16]),
            resume="allow",
            dir=str(run.folder),
            config=dict(run.recipe),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI, or without that in the SQLite file mlflow.db beside the run folder.

    The experiment is MLFLOW_EXPERIMENT_NAME, or "crosscale".

    MLflow refuses folders of text files, its older local store, unless a variable of its own allows them.
    """

    def __init__(self, run: Tracked) -> None:
        for name, value in _MLFLOW_PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.resolve().parent / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=place)
        self._run = run.identity("mlflow", lambda: self._begin(run.folder.name))
        if not run.start_step:
            params = [Param(key, str(value)[:500]) for key, value in _flat(run.recipe).items()]
            for first in range(0, len(params), 100):  # the most in one request
                self._client.log_batch(self._run, params=params[first : first + 100])
        else:
            self._client.update_run(self._run, status="RUNNING")

    def _begin(self, name: str) -> str:
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(wanted)
        experiment = self._client.create_experiment(wanted) if found is None else found.experiment_id
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


class TrackIO:
    """Trackio, which keeps its numbers on this machine (TRACKIO_DIR) unless its own variables say otherwise."""

    def __init__(self, run: Tracked) -> None:
        import trackio

        name = run.identity("trackio", lambda: f"{run.folder.name}-{uuid.uuid4().hex[:6]}")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run = trackio.init(project=project, name=name, config=dict(run.recipe), resume="allow", embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        import trackio

        trackio.finish()  # the run's own would be repeated at the process's end, on standard output


_KINDS: dict[str, Callable[[Tracked], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": TrackIO,
}


class Trackers:
    """The trackers that a run asked for, as one; an error in one of them ends only that one."""

    def __init__(self, names: Sequence[str], run: Tracked, tell: Callable[[str], None]) -> None:
        """
        Args:
          tell: takes a line about one that fails.
        """
        self._tell = tell
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            self._guarded(name, partial(self._begin, name, run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, step, values))

    def close(self, *, failed: bool = False) -> None:
        """See `Tracker.close`."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.close, failed=failed))
        self._open.clear()

    def _begin(self, name: str, run: Tracked) -> None:
        self._open[name] = _KINDS[name](run)

    def _guarded(self, name: str, work: Callable[[], Any]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # standard output is the command's own, which may be JSON
                work()
        except Exception as error:  # whatever a library raises, the training goes on
            self._open.pop(name, None)
            reason = " ".join(str(error).split())[:200]
            self._tell(f"tracker {name}: left out from here on ({type(error).__name__}: {reason})")


def check_trackers(names: Sequence[str]) -> None:
    """Raises RequestError for the first tracker whose library is not installed."""
    for name in names:
        if not is_installed(_MODULES[name]):
            raise RequestError(f"train.trackers: {name} is not installed: pip install 'crosscale[{name}]'")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested sections -> "section.key" names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{before}{name}.") if isinstance(value, Mapping) and value else {f"{before}{name}": value}
        flat |= inner
    return flat
