"""The service as a Starlette application: routes, admission, and every failure as one JSON line."""

import asyncio
import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from crosscale.errors import WorkError
from crosscale.serve.admission import Bounded
from crosscale.serve.batcher import Batcher
from crosscale.serve.body import Asked, Upload, body_kind, check_length, parse, read_body, together
from crosscale.serve.counts import CONTENT_TYPE, ServiceCounts
from crosscale.serve.openapi import openapi
from crosscale.serve.page import page
from crosscale.serve.served import Prepared, ServedModel
from crosscale.serve.settings import Refused, Settings, host_name

_log = logging.getLogger("crosscale.serve")

Handler = Callable[[Request], Awaitable[Response]]
_GUARDED = ("/v1/", "/metrics")
_LARGE_PIXELS = 8_000_000
_LARGE_AT_ONCE = 2


class Service:
    """The state behind the routes: the model, what is under way, and the threads that work."""

    def __init__(self, served: ServedModel, settings: Settings, on_shape: Callable[[str, int, int], None]) -> None:
        self.served = served
        self._on_shape = on_shape
        self.settings = settings
        self.pictures = Bounded("pictures", settings.queue)
        self.held = Bounded("bytes", settings.held_bytes)
        self.metrics = ServiceCounts(self.pictures, self.held)
        self.failure: str | None = None  # why the warm-up failed
        self.ready = False
        # One thread: a device runs one program at a time, and a queue in front of it only hides the waiting.
        self._device = ThreadPoolExecutor(1, "device")
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, "decode")
        # Decoded pictures take up to 16 bytes a pixel: of large ones, however small their files, few at a time.
        self._large_decoders = ThreadPoolExecutor(_LARGE_AT_ONCE, "decode-large")
        self._batcher = Batcher(
            served.outputs,
            sizes=settings.batch_sizes,
            max_delay=settings.max_delay,
            executor=self._device,
            on_batch=self.metrics.on_batch,
        )

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """Runs while the server does; at its end, what was submitted is finished."""
        self._batcher.start()
        warming = asyncio.create_task(self._warm_up())
        try:
            yield
        finally:
            await warming
            await self._batcher.close()
            for pool in (self._device, self._decoders, self._large_decoders):
                pool.shutdown()

    async def _warm_up(self) -> None:
        try:
            await self._on(self._device, self.served.warm_up, self.settings.batch_sizes, self._on_shape)
            self.ready = True
        except WorkError as error:  # says all there is to say
            self.failure = str(error)
        except Exception as error:
            self.failure = " ".join(str(error).split()) or type(error).__name__
            _log.exception("the warm-up failed")

    async def predict(self, request: Request) -> Response:
        """POST /v1/predict."""
        return await self._answer(request, "predictions", self._predict_one)

    async def explain(self, request: Request) -> Response:
        """POST /v1/explain."""
        if not self.served.maps:
            raise Refused(422, f"{self.served.name} has no attention maps")
        return await self._answer(request, "explanations", self._explain_one)

    async def _answer(
        self, request: Request, key: str, work: Callable[[Asked, str, Prepared], Awaitable[dict[str, Any]]]
    ) -> Response:
        settings = self.settings
        if not self.ready:
            raise Refused(503, "the model is being compiled; /readyz says when that is done", 2)
        kind = body_kind(request)
        check_length(request, settings)
        with self.held.growing(request.client.host if request.client else None) as hold:
            body = await read_body(request, settings, hold)
            try:
                async with asyncio.timeout(settings.answer_seconds):
                    asked = await parse(
                        kind,
                        request.headers,
                        body,
                        settings,
                        self.served.task.result_options,
                        request.query_params.multi_items(),
                    )
                    asked = together(asked, self.served.spec.pictures)
                    with self.pictures.hold(len(asked.uploads)):
                        results = await asyncio.gather(*(self._one(asked, item, work) for item in asked.uploads))
            except TimeoutError:
                wait = self.pictures.retry_after()
                raise Refused(503, f"no answer within {settings.answer_seconds:g} s; retry in {wait} s", wait) from None
        failures = [status for status, _ in results if status != 200]
        # A request without a usable picture failed; otherwise each bad picture has its error in its place.
        status = failures[0] if len(failures) == len(results) else 200
        answer: dict[str, Any] = {key: [result for _, result in results], "failed": len(failures)}
        if status != 200:
            answer["error"] = results[0][1]["error"]
        return JSONResponse(answer, status)

    async def _one(
        self, asked: Asked, upload: Upload, work: Callable[[Asked, str, Prepared], Awaitable[dict[str, Any]]]
    ) -> tuple[int, dict[str, Any]]:
        """The status and the result of one picture."""
        try:
            words = upload.data, upload.name, self.settings.max_pixels
            pixels = await self._on(self._decoders, self.served.pixels, *words)
            decoders = self._decoders if pixels <= _LARGE_PIXELS else self._large_decoders
            prepared = await self._on(decoders, self.served.prepare, *words)
            result = await work(asked, upload.name, prepared)
        except Refused as refusal:
            self.metrics.pictures.labels("refused").inc()
            return refusal.status, self.served.failure(upload.name, refusal.reason)
        self.metrics.pictures.labels("answered").inc()
        return 200, result

    async def _predict_one(self, asked: Asked, name: str, prepared: Prepared) -> dict[str, Any]:
        outputs = await self._batcher.submit(prepared.image, np.array(prepared.size))
        return self.served.result(outputs, name, asked.options, prepared.size)

    async def _explain_one(self, asked: Asked, name: str, prepared: Prepared) -> dict[str, Any]:
        found = await self._on(self._device, self.served.explain, prepared, name, asked.position, asked.options)
        return dict(found)

    async def _on(self, pool: ThreadPoolExecutor, work: Callable[..., Any], *words: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *words)

    async def healthz(self, request: Request) -> Response:
        """GET /healthz: the process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """GET /readyz: every shape is compiled."""
        if self.ready:
            return JSONResponse({"status": "ready"})
        status = f"failed: {self.failure}" if self.failure else "warming up"
        return JSONResponse({"status": status}, 503, {"Retry-After": "2"})

    async def model(self, request: Request) -> Response:
        """GET /v1/model: what is served."""
        served, settings = self.served, self.settings
        return JSONResponse(
            {
                "model": served.name,
                "task": served.task.name,
                "title": served.task.title,
                "noun": served.task.noun,
                "classes": list(served.task.labels),
                "size": list(served.spec.size),
                "channels": served.spec.channels,
                "maps": [{"name": m.name, "kind": m.kind, "scale": m.scale} for m in served.maps],
                "takes_position": served.takes_position,
                "limits": {name: getattr(settings, name) for name in ("max_bytes", "max_pixels", "max_images")},
            }
        )

    async def scrape(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def describe(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(openapi(self.settings, self.served.task))

    async def home(self, request: Request) -> Response:
        """GET /: the page."""
        html, policy = page()
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})


def make_app(
    served: ServedModel,
    settings: Settings,
    on_shape: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Starlette:
    """The application; its model is compiled while it starts, and `/readyz` says when that is done.

    `on_shape` is told, on another thread, what is compiled next, how many shapes are done, and of how many.
    """
    service = Service(served, settings, on_shape)
    routes: list[tuple[str, str, Handler]] = [
        ("GET", "/", service.home),
        ("POST", "/v1/predict", service.predict),
        ("POST", "/v1/explain", service.explain),
        ("GET", "/v1/model", service.model),
        ("GET", "/healthz", service.healthz),
        ("GET", "/readyz", service.readyz),
        ("GET", "/metrics", service.scrape),
        ("GET", "/openapi.json", service.describe),
    ]
    app = Starlette(
        routes=[Route(path, _guarded(service, path, handler), methods=[method]) for method, path, handler in routes],
        exception_handlers={HTTPException: _http_error},
        middleware=_shared_with(settings.origins),
        lifespan=service.running,
    )
    app.router.redirect_slashes = False  # to an address of the Host header's making
    app.state.service = service
    return app


def _shared_with(origins: tuple[str, ...]) -> list[Middleware]:
    """Lets pages of these origins read the answers (CORS); without it a browser keeps them from other pages."""
    if not origins:
        return []
    headers = ["Authorization", "Content-Type"]
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=headers,
            expose_headers=["Retry-After"],
        )
    ]


def _guarded(service: Service, path: str, handler: Handler) -> Handler:
    """The handler behind the token, counted, and with its refusals turned into answers."""

    async def handle(request: Request) -> Response:
        begun = time.perf_counter()
        try:
            _check_host(request, service.settings.hosts)
            _check_page(request, service.settings)
            if path.startswith(_GUARDED):
                _check_token(request, service.settings.token)
            response = await handler(request)
        except Refused as refusal:
            response = _refusal(refusal)
        except Exception:
            _log.exception("%s %s failed", request.method, path)
            response = JSONResponse({"error": "the service failed; its log says why"}, 500)
        response.headers["X-Content-Type-Options"] = "nosniff"
        service.metrics.requests.labels(path, response.status_code).inc()
        service.metrics.seconds.labels(path).observe(time.perf_counter() - begun)
        return response

    return handle


def _check_host(request: Request, hosts: tuple[str, ...]) -> None:
    if not hosts or "*" in hosts or "host" not in request.headers:  # a browser always says it
        return
    name = host_name(request.headers["host"])
    if name not in hosts:
        raise Refused(421, f"this service is not called '{name[:100]}'; --allow-host NAME lets requests use that name")


def _check_page(request: Request, settings: Settings) -> None:
    """Keeps pages elsewhere from having a service on the user's own machine work for them, if unread by them."""
    origin = request.headers.get("origin")
    if origin is None or request.method != "POST" or not settings.hosts or "*" in settings.hosts:
        return
    site = request.headers.get("sec-fetch-site")  # newer browsers say it themselves, whatever name a proxy passes on
    own = site == "same-origin" if site else origin.partition("://")[2] == request.headers.get("host")
    if not own and not {origin, "*"} & set(settings.origins):
        raise Refused(403, f"a page of another origin asks ('{origin[:100]}'); --allow-origin lets those it names")


def _check_token(request: Request, token: str | None) -> None:
    if token is None:
        return
    given = request.headers.get("authorization", "").encode("latin-1")  # the bytes as they came
    scheme, _, word = given.partition(b" ")
    # Headers have no encoding of their own: some clients write letters beyond ASCII as UTF-8, others as Latin-1.
    right = [token.encode("utf-8", "surrogateescape")]
    with suppress(UnicodeEncodeError):
        right.append(token.encode("latin-1"))
    if scheme.lower() != b"bearer" or not any(hmac.compare_digest(word.strip(), one) for one in right):
        raise Refused(401, "this service asks for a token: send the header Authorization: Bearer <token>")


def _refusal(refusal: Refused) -> Response:
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": refusal.reason}, refusal.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request.app.state.service.metrics.refused(error.status_code)
    known = "see /openapi.json" if error.status_code in (404, 405) else ""
    reason = f"{error.detail}: {request.method} {request.url.path}"
    return JSONResponse({"error": f"{reason}; {known}" if known else reason}, error.status_code, error.headers)
