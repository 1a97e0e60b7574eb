"""Many clients at once against `crosscale serve`: rate, latency, refusals, and that every request is answered.

    python -m benchmarks.serve_load --run RUN [--clients 200] [--seconds 20] [-- SERVE-OPTIONS...]

The service runs as a process of its own on the loopback address. Every client sends one request after another on
a connection of its own: photographs of several sizes and formats, several at once, and one in ten a broken file. A
client that is refused with 429 waits as long as Retry-After says, up to a second, and goes on with the next one.
"""

import argparse
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))

from client import form, metric, serving

SIDES = (64, 160, 320, 800, 1600)
BROKEN = 0.1  # share of requests
SEVERAL = 0.1  # share of requests with several pictures


class Sent(NamedTuple):
    """One request: its status (None: no answer), whether it was broken on purpose, pictures, seconds."""

    status: int | None
    broken: bool
    pictures: int
    seconds: float


def photographs() -> list[bytes]:
    """The package's photographs at several sizes, as JPEG, PNG and WebP."""
    found = []
    for entry in sorted(files("crosscale.export").joinpath("pictures").iterdir(), key=lambda item: item.name):
        if not entry.name.endswith(".jpg"):
            continue
        photo = Image.open(BytesIO(entry.read_bytes()))
        for side in SIDES:
            scaled = photo.resize((side, max(1, side * photo.height // photo.width)))
            for kind in ("JPEG", "PNG", "WEBP") if side <= 320 else ("JPEG",):
                file = BytesIO()
                scaled.save(file, kind)
                found.append(file.getvalue())
    return found


def broken(photos: list[bytes], draw: random.Random) -> bytes:
    """A file that is no picture, or no longer."""
    photo = draw.choice(photos)
    return draw.choice([b"", b"words", b"<svg xmlns='http://www.w3.org/2000/svg'/>", photo[: len(photo) // 2]])


class Client(threading.Thread):
    """Sends requests until the end."""

    def __init__(self, url: str, photos: list[bytes], seed: int, start: threading.Barrier, seconds: float) -> None:
        super().__init__(daemon=True)
        self.place = urlsplit(url)
        self.photos = photos
        self.draw = random.Random(seed)
        self.barrier = start
        self.seconds = seconds
        self.sent: list[Sent] = []

    def run(self) -> None:
        self.barrier.wait()
        end = time.monotonic() + self.seconds
        connection = self._connect()
        while time.monotonic() < end:
            bad = self.draw.random() < BROKEN
            count = 1 if bad or self.draw.random() > SEVERAL else self.draw.randint(2, 4)
            chosen = [broken(self.photos, self.draw) if bad else self.draw.choice(self.photos) for _ in range(count)]
            body, headers = form([(f"{i}.png", data) for i, data in enumerate(chosen)])
            begun = time.perf_counter()
            wait = 0.0
            try:
                connection.request("POST", "/v1/predict", body=body, headers=headers)
                response = connection.getresponse()
                response.read()
                status: int | None = response.status
                wait = min(float(response.getheader("Retry-After") or 0), 1.0)
            except (OSError, http.client.HTTPException):
                status = None
                connection.close()
                connection = self._connect()
            self.sent.append(Sent(status, bad, count, time.perf_counter() - begun))
            time.sleep(wait)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.place.hostname or "", self.place.port, timeout=60)


def load(url: str, clients: int, seconds: float) -> dict[str, float]:
    """Runs the clients against a service and sums up what they saw."""
    photos = photographs()
    start = threading.Barrier(clients + 1)
    threads = [Client(url, photos, seed, start, seconds) for seed in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - begun
    sent = [item for thread in threads for item in thread.sent]
    answered = [item for item in sent if item.status == 200]
    seconds_taken = np.array([item.seconds for item in answered]) if answered else np.array([np.nan])
    statuses = Counter(item.status for item in sent)
    expected = {False: (200, 429), True: (415, 422, 429)}
    return {
        "clients": clients,
        "seconds": passed,
        "requests": len(sent),
        "answered": len(answered),
        "pictures_per_second": sum(item.pictures for item in answered) / passed,
        "requests_per_second": len(sent) / passed,
        "p50_ms": float(1e3 * np.percentile(seconds_taken, 50)),
        "p99_ms": float(1e3 * np.percentile(seconds_taken, 99)),
        "refused": statuses[429],
        "broken_answered": sum(item.broken and item.status in (415, 422) for item in sent),
        "failed": sum(item.status is not None and item.status not in expected[item.broken] for item in sent),
        "unanswered": statuses[None],
        "pictures_per_forward": metric(url, "crosscale_batch_pictures_sum")
        / max(metric(url, "crosscale_batch_pictures_count"), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("serve", nargs="*", help="options of `crosscale serve`, after --")
    options = parser.parse_args()
    with serving(options.run, *options.serve) as service:
        result = load(service.url, options.clients, options.seconds)
    if options.json:
        print(json.dumps(result))
        return
    print("| clients | requests/s | pictures/s | p50 | p99 | refused (429) | broken, told so | failed | unanswered |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {result['clients']} | {result['requests_per_second']:.0f} | {result['pictures_per_second']:.0f} "
        f"| {result['p50_ms']:.0f} ms | {result['p99_ms']:.0f} ms | {result['refused']:,} of {result['requests']:,} "
        f"| {result['broken_answered']:,} | {result['failed']} | {result['unanswered']} |"
    )


if __name__ == "__main__":
    main()
