"""What ends every process of several when one of them fails or is gone, and says which and why.

Process 0 coordinates: it holds a small table of texts that all can read. What goes wrong on one process is written
there, and every process has a thread that watches for it, because a process whose computation waits for one that is
gone would wait for ever.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import jax

from crosscale.errors import RequestError, WorkError

SILENT_SECONDS = 20  # after which a process without a sign of life counts as dead
GRACE_SECONDS = 10  # for the others to read why process 0, with its table, is about to go
POLL_SECONDS = 1.0
LONG_MS = 7 * 24 * 3600 * 1000  # waiting ends by the others' arrival or by their death, not by the clock
_FAILED, _SEEN = "crosscale/failed/", "crosscale/seen/"


class Watch:
    """Two threads that end this process when another one has failed or is gone."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._leaving = threading.Event()
        self._ending = threading.Lock()
        self._lives = threading.Thread(target=self._watch_lives, daemon=True, name="watch-lives")
        self._failures = threading.Thread(target=self._watch_failures, daemon=True, name="watch-failures")
        self._lives.start()
        self._failures.start()

    def failed(self, error: BaseException) -> None:
        """Tells the others why this process ends; does not return where another one failed before."""
        # A computation that broke off most likely means another process's end, which the threads will learn of.
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            time.sleep(SILENT_SECONDS + 10 * POLL_SECONDS)
        with self._ending:
            self._done.set()
            status = 2 if isinstance(error, RequestError) else 1
            verdict = {"message": f"{own_name()} failed: {one_line(error)}", "status": status}
            with suppress(jax.errors.JaxRuntimeError):  # the table is gone, and so are its readers
                client().key_value_set(f"{_FAILED}{_state().process_id}", json.dumps(verdict))
                _say_goodbye()
        self._close()

    def finish(self) -> None:
        """Leaves, once all have come here; the others' end is no longer a failure."""
        client().wait_at_barrier("crosscale/end", LONG_MS)
        self._done.set()
        client().wait_at_barrier("crosscale/left", LONG_MS)  # nobody goes before everybody knows that
        if _state().process_id == 0:
            self._lives.join(GRACE_SECONDS)  # until the others are gone: the table must outlive them
        self._close()
        jax.distributed.shutdown()

    def _close(self) -> None:
        """Ends the threads: one that Python's own end meets inside the runtime would crash the process."""
        self._leaving.set()
        for thread in (self._lives, self._failures):
            thread.join(GRACE_SECONDS)
        if _state().process_id != 0:
            ctypes.CDLL(None).signal(int(signal.SIGABRT), None)  # see `explain_abort`; its handler needs Python

    def _watch_failures(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            self._end_if_one_failed()

    def _end_if_one_failed(self) -> None:
        with suppress(jax.errors.JaxRuntimeError):
            for _, text in client().key_value_dir_get(_FAILED)[:1]:
                said = json.loads(text)
                self._end(said["message"], said["status"])

    def _watch_lives(self) -> None:
        table, everyone = client(), list(range(_state().num_processes))
        while not self._leaving.wait(POLL_SECONDS):
            try:
                gone = sorted(set(everyone) - set(table.get_live_nodes(everyone)))
            except jax.errors.JaxRuntimeError:
                return  # the table is gone: see `explain_abort`
            if gone and self._done.is_set():
                return
            if gone:
                self._end_if_one_failed()  # it may have said why it went
                message = f"process {gone[0]} has gone without a word (killed, or its machine was lost)"
                self._end(message, 1, gone=len(gone))

    def _end(self, message: str, status: int, gone: int = 0) -> None:
        with self._ending:
            if not self._done.is_set():
                print_error(message)
                with suppress(jax.errors.JaxRuntimeError):
                    _say_goodbye(gone)
                os._exit(status)  # the main thread may be waiting for a process that is gone


def _say_goodbye(gone: int = 0) -> None:
    """Marks that this process knows; process 0, without which nobody could, waits for all but the `gone`."""
    table = client()
    table.key_value_set(f"{_SEEN}{_state().process_id}", "", allow_overwrite=True)
    until = time.monotonic() + GRACE_SECONDS
    while _state().process_id == 0 and time.monotonic() < until:
        if len(table.key_value_dir_get(_SEEN)) >= _state().num_processes - gone:
            return
        time.sleep(POLL_SECONDS / 5)


def explain_abort() -> None:
    """Makes this process say why the runtime aborts it, where that is because process 0 is gone.

    The runtime does that as soon as the connection breaks, from a thread of its own; Python's handlers, which the
    main thread runs, would come too late.
    """
    if _state().process_id == 0:
        return
    host, _, port = str(_state().coordinator_address).rpartition(":")

    @ctypes.CFUNCTYPE(None, ctypes.c_int)  # type: ignore[untyped-decorator]  # ctypes has no types for it
    def on_abort(number: int) -> None:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
        except OSError:
            print_error("process 0, which coordinates, has gone without a word (killed, or its machine was lost)")
            os._exit(1)

    explain_abort.handler = on_abort  # type: ignore[attr-defined]  # must live as long as the process
    ctypes.CDLL(None).signal(int(signal.SIGABRT), on_abort)


def client() -> Any:
    """The client of the table."""
    return _state().client


def _state() -> Any:
    # Has no public name. The public numbers would start the devices, which waits for processes that may be gone.
    from jax._src.distributed import global_state

    return global_state


def own_name() -> str:
    return f"process {_state().process_id} ({socket.gethostname()})"


def one_line(error: BaseException) -> str:
    message = str(error) if isinstance(error, (RequestError, WorkError)) else f"{type(error).__name__}: {error}"
    return " ".join(message.split())


def print_error(message: str) -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    text = f"crosscale: process {_state().process_id}: error: {message}\n"
    with suppress(OSError):
        os.write(2, text.encode())
