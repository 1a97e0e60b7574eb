"""uvicorn's HTTP/1.1 with a limit on time. It leans on parts of uvicorn and h11 that are not their public interface.

`tests/test_private_parts.py` says which, and fails when one of them has moved.
"""

import asyncio
import logging

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedHTTP(H11Protocol):
    """uvicorn's HTTP/1.1 with a limit on how long a client may take over its headers, and go without reading.

    Without it a connection that never completes a request, or never takes its answer, is held for ever.

    Attributes:
      seconds: the limit.
    """

    seconds: float
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def handle_events(self) -> None:
        cycle = self.cycle
        super().handle_events()
        if self.cycle is not cycle and not self.cycle.response_complete:
            self._disarm()

    def on_response_complete(self) -> None:
        # The rest of a body that was refused is read and thrown away, as long as this allows.
        self._arm()
        self._watch_reading()
        super().on_response_complete()

    def _watch_reading(self) -> None:
        if self._reading is None:
            self._check_reading(0)

    def _check_reading(self, before: int) -> None:
        """Ends the connection where a client has read nothing of what waits for it since the last look."""
        self._reading = None
        waiting = self.transport.get_write_buffer_size()
        if waiting and waiting == before:
            self.transport.abort()  # to close would wait for the client
        elif waiting:
            self._reading = self.loop.call_later(self.seconds, self._check_reading, waiting)

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:  # part of a request
            message = b'{"error": "the headers did not arrive within %g s"}' % self.seconds
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(message), message)
            )
        self.transport.close()


def timed_protocol(seconds: float) -> type[asyncio.Protocol]:
    """`TimedHTTP` with its limit."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    class Limited(TimedHTTP):
        pass

    Limited.seconds = seconds
    return Limited
