"""uvicorn's HTTP/1.1 with limits on time and on pieces. It leans on private parts of uvicorn and h11.

`tests/test_private_parts.py` says which, and fails when one of them has moved.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_FREE_PIECES = 10_000  # of one body, as they come
_LEAST_PIECE = 256  # bytes, on the average of all others
_MOST_HEADERS = 1 << 16


class CountedPieces(h11.Connection):
    """h11's connection, which refuses a body in very small pieces.

    Each costs the thread of all clients some microseconds: 16 MB in chunks of one byte would keep it for minutes.

    Attributes:
      refusal: why the connection ends, where that is the number of pieces.
    """

    refusal = ""
    _pieces = _bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _FREE_PIECES + self._bytes // _LEAST_PIECE:
                self.refusal = f"the body comes in chunks of few bytes; send chunks of {_LEAST_PIECE} or more"
                raise h11.RemoteProtocolError(self.refusal)
        return event


class TimedHTTP(H11Protocol):
    """uvicorn's HTTP/1.1 with a limit on how long a client may take over its headers, and go without reading.

    Without it a connection that never completes a request, or never takes its answer, is held for ever.

    Attributes:
      seconds: the limit.
      refused: told the status of each answer that is given here, before the application.
    """

    seconds: float
    refused: Callable[[int], None]
    conn: CountedPieces
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.conn = CountedPieces(h11.SERVER, _MOST_HEADERS)

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
            self._refuse(408, f"the headers did not arrive within {self.seconds:g} s")
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # no answer has begun
            self._refuse(400, self.conn.refusal or "the request is not HTTP/1.1, or its headers are too long")
        self.transport.close()

    def _refuse(self, status: int, reason: str) -> None:
        """Answers past the application, which has no whole request."""
        message = json.dumps({"error": reason}).encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
            % (status, HTTPStatus(status).phrase.encode(), len(message), message)
        )
        self.refused(status)


def timed_protocol(seconds: float, refused: Callable[[int], None] = lambda status: None) -> type[asyncio.Protocol]:
    """`TimedHTTP` with its limit, and with who is told of what it answers by itself."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    class Limited(TimedHTTP):
        pass

    Limited.seconds = seconds
    Limited.refused = staticmethod(refused)
    return Limited
