"""Loader processes under watch: one that was killed is an error in a line, and one that stands still is named."""

import logging
import threading
import time
import weakref
from typing import Any

from crosscale.errors import WorkError

log = logging.getLogger("crosscale.data")

PATIENCE = 120.0  # seconds; a large picture on slow storage takes a few


class Watched:
    """An iterator of Grain's that has loader processes.

    Grain waits without end for a process that somebody stopped (SIGSTOP, a debugger, a storage that hangs).
    """

    def __init__(self, iterator: Any, patience: float = PATIENCE) -> None:
        """
        Args:
          iterator: to take from, and to close.
          patience: seconds of waiting for one element, after which a line says so, once.
        """
        self._iterator = iterator
        self._waits = _Waits()
        watch = threading.Thread(target=_watch, args=(self._waits, patience), daemon=True)
        self._end = weakref.finalize(self, self._waits.ended.set)
        watch.start()

    def __iter__(self) -> "Watched":
        return self

    def __next__(self) -> Any:
        self._waits.since = time.monotonic()
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # Grain's words where one of its processes is gone
                raise
            self.close()
            raise WorkError(
                "a loader process was ended from outside, perhaps because memory ran out; try fewer data.workers, and "
                "go on with --resume"
            ) from error
        finally:
            self._waits.since = None

    def close(self) -> None:
        """Stops the processes and the watch."""
        self._end()
        self._iterator.close()


class _Waits:
    """Since when an element has been waited for, None where nobody waits; and whether the watch is to end."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.ended = threading.Event()


def _watch(waits: _Waits, patience: float) -> None:
    while not waits.ended.wait(min(patience / 4, 5.0)):
        since = waits.since
        if since is not None and time.monotonic() - since > patience:
            log.warning(
                "no loader process has given a batch for %.0f s: is one stopped, or the storage that it reads from?",
                patience,
            )
            return
