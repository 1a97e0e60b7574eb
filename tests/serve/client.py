"""A client for the service's tests and load test: requests by hand, so that wrong ones can be made."""

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(url, path, *, method="GET", body=None, headers=None, timeout=60) -> Answer:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def form(files, boundary="frontier", **fields) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a multipart form of (file name, bytes) pairs."""
    parts = []
    for name, data in files:
        head = f'Content-Disposition: form-data; name="images"; filename="{name}"\r\nContent-Type: image/png'
        parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    for name, value in fields.items():
        head = f'Content-Disposition: form-data; name="{name}"'
        parts.append(f"--{boundary}\r\n{head}\r\n\r\n{value}\r\n".encode())
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


def post_files(url, path, files, **fields) -> Answer:
    body, headers = form(files, **fields)
    return request(url, path, method="POST", body=body, headers=headers)


def post_json(url, path, value) -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return request(url, path, method="POST", body=body, headers={"Content-Type": "application/json"})


class Process(NamedTuple):
    url: str
    process: subprocess.Popen
    errors: list[str]


@contextmanager
def serving(run, *options, env=None):
    """`crosscale serve` as a process of its own, ready to answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "crosscale", "serve", "--run", str(run), "--port", "0", "--json", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line, "the service ended before it was ready:\n" + "".join(errors)
        yield Process(json.loads(line)["url"], process, errors)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(10)
        process.stdout.close()


def metric(url, name) -> float:
    """The sum of a metric's samples."""
    text = request(url, "/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
