"""Several processes as one program, by `jax.distributed`: they start, agree and end together."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import jax
from jax.experimental import multihost_utils

from crosscale.cluster.stop import StopSignals, stopping_signals
from crosscale.cluster.watch import (
    GRACE_SECONDS,
    LONG_MS,
    POLL_SECONDS,
    SILENT_SECONDS,
    Watch,
    client,
    explain_abort,
    one_line,
    own_name,
    print_error,
)
from crosscale.errors import RequestError, WorkError
from crosscale.runtime import prepare_jax

START_SECONDS = 300  # for all processes to come; a cluster may start them minutes apart
_calls = count()


@dataclass(frozen=True)
class Start:
    """How a process finds the others.

    Attributes:
      coordinator: "host:port" of process 0; None detects all three from the cluster's environment.
      processes: their number.
      process: this one's number, from 0.
    """

    coordinator: str | None = None
    processes: int = 1
    process: int = 0


@contextmanager
def together(start: Start | None) -> Iterator[None]:
    """Runs the body as one of several processes; None runs it alone.

    Must be entered before anything computes. An exception of the body ends all processes: in the others a line on
    standard error names this one and its message, and their exit status is 2 for a RequestError, else 1. A process
    that is killed ends the others within `SILENT_SECONDS` and a few.

    Raises:
      RequestError: no cluster was detected, or the numbers do not fit.
      WorkError: the others were not found in time.
    """
    if start is None:
        prepare_jax()
        yield
        return
    _initialize(start)
    watch = Watch()
    try:
        yield
    except (RequestError, WorkError) as error:
        watch.failed(error)
        raise type(error)(f"{own_name()} failed: {error}") from error
    except BaseException as error:
        watch.failed(error)
        print_error(f"{own_name()} failed: {one_line(error)}")
        raise
    watch.finish()


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come here; the calls must come in the same order in each."""
    if jax.process_count() > 1:
        client().wait_at_barrier(f"crosscale/{name}/{next(_calls)}", LONG_MS)


def from_first(text: str) -> str:
    """Process 0's text in all; the calls must come in the same order in each."""
    if jax.process_count() == 1:
        return text
    key = f"crosscale/text/{next(_calls)}"
    if is_first():
        client().key_value_set(key, text)
        return text
    return str(client().blocking_key_value_get(key, LONG_MS))


def all_texts(text: str, *, seconds: float | None = None) -> list[str]:
    """Every process's text, by process number; the calls must come in the same order in each.

    Raises:
      TimeoutError: another process did not come here within `seconds`; None waits.
    """
    if jax.process_count() == 1:
        return [text]
    folder = f"crosscale/texts/{next(_calls)}"
    client().key_value_set(f"{folder}/{jax.process_index()}", text)
    limit = LONG_MS if seconds is None else int(1000 * seconds)
    try:
        return [str(client().blocking_key_value_get(f"{folder}/{i}", limit)) for i in range(jax.process_count())]
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(f"not every process came within {limit // 1000} s ({one_line(error)})") from None


def wait_for_file(path: Path, why: str) -> None:
    """Returns when this process sees a file that another one has written.

    Raises:
      RequestError: it does not in `GRACE_SECONDS`; network file systems may show a file late.
    """
    until = time.monotonic() + GRACE_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            raise RequestError(f"{own_name()} does not see {path}: {why}")
        time.sleep(POLL_SECONDS / 5)


def sums(values: Sequence[int]) -> list[int]:
    """Each number's sum over all processes."""
    if jax.process_count() == 1:
        return list(values)
    return [sum(numbers) for numbers in zip(*(json.loads(text) for text in all_texts(json.dumps(values))), strict=True)]


class Stop(Protocol):
    """What `stop_signals` gives: a context whose `requested` is a signal's name, or None."""

    @property
    def requested(self) -> str | None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *raised: Any) -> None: ...


def stop_signals() -> Stop:
    """A process alone sees its own SIGTERM and Ctrl-C; several see those of any, at the same moment in all."""
    return StopSignals() if jax.process_count() == 1 else AgreedStop()


class AgreedStop:
    """SIGTERM, Ctrl-C or SIGHUP of any process, seen by all at the same question: they must ask equally often.

    JAX's runtime, which handles SIGTERM from the start, agrees on a count that no process has reached yet.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._reached = False
        self._interrupted = False
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> str | None:
        """ "SIGTERM" once a process was asked to stop, else None."""
        if not self._reached:
            self._asked += 1
            self._reached = multihost_utils.reached_preemption_sync_point(self._asked)
        return signal.SIGTERM.name if self._reached else None

    def __enter__(self) -> "AgreedStop":
        if threading.current_thread() is threading.main_thread():
            for number in stopping_signals():
                if number != signal.SIGTERM:  # JAX's runtime has that
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)


def _initialize(start: Start) -> None:
    given = start.coordinator is not None
    if given and not 0 <= start.process < start.processes:
        raise RequestError(
            f"--process-id {start.process}: must lie in 0..{start.processes - 1}, for --num-processes {start.processes}"
        )
    named: dict[str, Any] = {}
    if given:
        host, _, port = str(start.coordinator).rpartition(":")
        if not host or not port.isdigit():
            raise RequestError(f"--coordinator {start.coordinator}: must be HOST:PORT of process 0")
        named = {
            "coordinator_address": start.coordinator,
            "num_processes": start.processes,
            "process_id": start.process,
            "cluster_detection_method": "deactivate",
        }
    # Without this the runtime aborts the process, with a stack trace, before a watching thread can say what happened.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=SILENT_SECONDS,
            shutdown_timeout_seconds=GRACE_SECONDS,
        )
    except ValueError as error:  # what detection did not find
        if given:
            raise
        raise RequestError(
            "--distributed: no cluster was detected (Slurm, Open MPI, Kubernetes, Cloud TPU); give --coordinator "
            f"HOST:PORT, --num-processes N and --process-id I instead ({error})"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise WorkError(f"the {start.processes} processes did not find one another ({reason})") from None
    explain_abort()
