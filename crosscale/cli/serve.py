"""`crosscale serve`: one model over HTTP, with a page to try it on."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from crosscale.cli.arguments import (
    Parser,
    add_engine_option,
    add_model_options,
    check_model_options,
    count,
    open_predictor,
    positive_int,
    with_engine,
)
from crosscale.cli.output import note, print_json, progress_bar
from crosscale.errors import RequestError

TOKEN_VARIABLE = "CROSSCALE_SERVE_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")  # this machine alone

HELP = f"""\
Serves one model over HTTP until it is interrupted: POST /v1/predict and /v1/explain with pictures, a page at /
to drop or paste one, /healthz, /readyz, /metrics (Prometheus), /openapi.json.

Pictures of different requests share a forward pass. The service refuses what exceeds a limit, with a reason, and
with Retry-After where the client may send it again. After SIGTERM or Ctrl-C it answers the requests that have begun
and ends; a second signal ends it at once.

{TOKEN_VARIABLE} in the environment, or --token-file, sets a token that clients must send
(Authorization: Bearer ...)."""

EPILOG = """\
examples:
  crosscale serve --run runs/digits
  crosscale serve --run runs/birds --host 0.0.0.0 --port 80 --token-file token.txt --max-batch 32
  crosscale serve --run runs/birds --engine auto
  curl -F images=@photo.jpg -F top_k=3 http://127.0.0.1:8000/v1/predict
  curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "http://127.0.0.1:8000/v1/predict?top_k=3"

JSON: one object when the service is ready: {"url", "model", "classes" (their number)}

exit status:
  0  it was asked to stop, and did
  1  the port is taken, or the work failed
  2  the request was wrong (unknown option, missing run, a limit that cannot work)"""


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Serves until a signal. Raises RequestError, WorkError."""
    options = _parser().parse(argv)
    check_model_options(options)
    token = _token(options.token_file)
    for package in ("starlette", "uvicorn", "multipart", "prometheus_client"):
        if find_spec(package) is None:
            raise RequestError("serve needs Starlette and uvicorn; pip install 'crosscale[serve]'")

    from crosscale.serve.settings import Settings

    settings = Settings(
        max_bytes=options.max_bytes,
        max_pixels=options.max_pixels,
        max_images=min(options.max_images, options.queue),
        queue=options.queue,
        held_bytes=max(2 * options.max_bytes, Settings.held_bytes),
        body_seconds=options.body_seconds,
        answer_seconds=options.answer_seconds,
        max_batch=options.max_batch,
        max_delay=options.max_delay_ms / 1000 or 1e-6,
        token=token,
        origins=tuple(options.allow_origin),
        hosts=_hosts(options.host, options.allow_host),
    )
    predictor = with_engine(options, open_predictor(options), options.max_batch, "serve")
    from crosscale.serve.served import ServedModel
    from crosscale.serve.server import serve

    name = Path(options.run).expanduser().resolve().name if options.run is not None else options.model
    served = ServedModel(predictor, name)

    compiling = ExitStack()

    def ready(url: str) -> None:
        compiling.close()
        if as_json:
            print_json({"url": url, "model": name, "classes": len(predictor.classes)})
        else:
            note(f"crosscale serve: {name}, {len(predictor.classes)} classes, ready at {url}")
        if token is None and options.host not in LOOPBACK:
            note(f"crosscale serve: anyone who reaches {options.host} may use it; --token-file asks for a token")

    with compiling:
        report = compiling.enter_context(progress_bar("compiling", verb="serve"))
        answered = serve(
            served,
            settings,
            host=options.host,
            port=options.port,
            on_ready=ready,
            on_shape=lambda what, done, total: report(done, total, what),
        )
    note(f"crosscale serve: stopped after {answered:,} answers")
    return 0


def _hosts(address: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The names that requests may use: those that are allowed, and on a loopback address its own."""
    names = tuple(name.lower() for name in allowed)
    return (*LOOPBACK, *names) if address in LOOPBACK else names


def _token(file: str | None) -> str | None:
    if file is None:
        given = os.environ.get(TOKEN_VARIABLE)
        return None if given is None else given.strip()
    try:
        token = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise RequestError(f"--token-file {file}: cannot be read ({reason})") from None
    if not token:
        raise RequestError(f"--token-file {file}: is empty; write the token into it")
    return token


def _parser() -> Parser:
    parser = Parser("serve", description=HELP, epilog=EPILOG)
    add_model_options(parser, class_names=True)
    add_engine_option(parser)
    place = parser.add_argument_group("where")
    place.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    place.add_argument("--port", metavar="N", type=count, default=8000, help="0 takes a free one (default 8000)")
    place.add_argument("--token-file", metavar="FILE", help="a file that holds the token to ask clients for")
    place.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="of a page elsewhere that may read the answers, such as https://example.org; '*' is any (repeatable)",
    )
    place.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="another name than localhost that requests may use where --host is a loopback address; '*' is any",
    )
    batch = parser.add_argument_group("batching")
    batch.add_argument(
        "--max-batch", metavar="N", type=positive_int, default=16, help="pictures per forward (default 16)"
    )
    batch.add_argument(
        "--max-delay-ms", metavar="MS", type=count, default=5, help="wait this many ms for other pictures (default 5)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--queue", metavar="N", type=positive_int, default=128, help="pictures under way; then 429 (default 128)"
    )
    limits.add_argument(
        "--max-images", metavar="N", type=positive_int, default=32, help="pictures per request (default 32)"
    )
    limits.add_argument(
        "--max-bytes", metavar="N", type=positive_int, default=16 << 20, help="bytes per request (default 16 MiB)"
    )
    limits.add_argument(
        "--max-pixels", metavar="N", type=positive_int, default=40_000_000, help="pixels per picture (default 40 M)"
    )
    limits.add_argument(
        "--body-seconds", metavar="S", type=positive_int, default=20, help="for a client to send (default 20)"
    )
    limits.add_argument(
        "--answer-seconds", metavar="S", type=positive_int, default=30, help="for the service to answer (default 30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object when ready")
    return parser
