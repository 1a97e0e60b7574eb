"""Runs the application under uvicorn: time limits on connections, a clean end, a line that says where it is."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn

from crosscale.cluster.stop import stopping_signals
from crosscale.errors import RequestError, WorkError
from crosscale.serve.app import make_app
from crosscale.serve.served import ServedModel
from crosscale.serve.settings import Settings
from crosscale.serve.timed_http import timed_protocol

_GRACE = 5.0  # seconds beyond the limits of a request in which the last ones may finish


def serve(
    served: ServedModel,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], None] = lambda url: None,
    on_shape: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> int:
    """Serves until SIGINT, SIGTERM or SIGHUP (a closed terminal), then finishes what has begun and returns.

    A second signal ends it at once.

    Args:
      host: the address to listen on.
      port: 0 takes a free one.
      on_ready: told the service's URL once it answers predictions.
      on_shape: before that, told what is compiled next, how many shapes are done, and of how many.

    Returns:
      The number of answered requests.

    Raises:
      RequestError: the address is not this machine's.
      WorkError: the port is taken or not permitted, or the model failed on its first run.
    """
    bound = _bind(host, port)
    app = make_app(served, settings, on_shape)
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings.body_seconds, app.state.service.metrics.refused),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        log_level="error",
        server_header=False,
        timeout_keep_alive=int(settings.body_seconds) or 1,
        timeout_graceful_shutdown=int(settings.body_seconds + settings.answer_seconds + _GRACE),
        backlog=2048,
    )
    server = _Server(config)
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{bound.getsockname()[1]}"
    asyncio.run(_run(server, bound, app.state.service, lambda: on_ready(url)))
    if app.state.service.failure is not None:
        raise WorkError(f"the model failed on its first run: {app.state.service.failure}")
    return int(server.server_state.total_requests)


async def _run(server: uvicorn.Server, bound: socket.socket, service: Any, on_ready: Callable[[], None]) -> None:
    async def watch() -> None:
        while not (service.ready and server.started):
            if service.failure is not None:
                server.should_exit = True
                return
            await asyncio.sleep(0.05)
        on_ready()

    watching = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[bound])
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OverflowError:
        raise RequestError(f"--port {port}: ports are 1 to 65535; 0 takes a free one") from None
    except socket.gaierror:
        raise RequestError(f"--host {host}: not an address; 127.0.0.1 is this machine, 0.0.0.0 every network") from None
    except OSError as error:
        bound.close()
        reason = (error.strerror or str(error)).lower()
        raise WorkError(f"cannot listen on {host} port {port}: {reason}; another --port may do") from None
    return bound


class _Server(uvicorn.Server):
    """Ends on a signal without raising it again: a stopped service has done its work."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in stopping_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # At once: a thread that decodes a picture would be waited for, however the interpreter ended.
            os._exit(128 + number)
        self.handle_exit(number, frame)
