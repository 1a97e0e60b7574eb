"""A polite end: SIGTERM, Ctrl-C and a closed terminal (SIGHUP) let the step finish and the state be saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


def stopping_signals() -> list[signal.Signals]:
    """Those that ask a process to end; SIGHUP only where whoever started the process did not ignore it."""
    found = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # Windows has none
        found.append(signal.SIGHUP)
    return found


class StopSignals:
    """While entered, the first SIGTERM, SIGINT or SIGHUP only sets `requested`; a second SIGINT interrupts.

    SIGHUP stays ignored where whoever started the process said so, as nohup does.

    Attributes:
      requested: the name of the signal, or None.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Python delivers signals to the main thread only, and lets no other thread set a handler.
        if threading.current_thread() is threading.main_thread():
            for number in stopping_signals():
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
