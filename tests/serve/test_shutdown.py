"""A full queue is refused with Retry-After; a stopped service answers what it accepted and ends with status 0."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from client import metric, post_files, request, serving, until


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopping_finishes_what_was_accepted(tiny_run, photos, number):
    # A long wait for company keeps the accepted pictures in the queue while the signal arrives.
    with (
        serving(tiny_run, "--max-batch", 2, "--max-delay-ms", 3000, "--queue", 4) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        accepted = pool.submit(post_files, service.url, "/v1/predict", [("cat.png", photos["cat.png"])])
        until(lambda: metric(service.url, "crosscale_pictures_under_way") == 1)
        service.process.send_signal(number)
        assert accepted.result(30).status == 200
        assert service.process.wait(30) == 0
        with pytest.raises(ConnectionError):
            post_files(service.url, "/v1/predict", [("cat.png", photos["cat.png"])])
    assert "stopped after" in service.errors[-1]
    assert "Traceback" not in "".join(service.errors)


@pytest.mark.slow
def test_a_full_queue_is_refused(tiny_run, photos):
    with (
        serving(tiny_run, "--max-batch", 8, "--max-delay-ms", 2000, "--queue", 2) as service,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = [pool.submit(post_files, service.url, "/v1/predict", [("cat.png", photos["cat.png"])]) for _ in "ab"]
        until(lambda: metric(service.url, "crosscale_pictures_under_way") == 2)
        refused = post_files(service.url, "/v1/predict", [("cat.png", photos["cat.png"])])
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "2 of 2 pictures are under way" in refused.json["error"]
        assert [item.result(30).status for item in waiting] == [200, 200]
        assert post_files(service.url, "/v1/predict", [("cat.png", photos["cat.png"])]).status == 200


@pytest.mark.slow
def test_a_client_that_never_reads_does_not_hold_a_stopping_service(tiny_run):
    with serving(tiny_run, "--body-seconds", 1, "--answer-seconds", 1) as service:
        place = urlsplit(service.url)
        with socket.create_connection((place.hostname, place.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)  # more than the system keeps for it
            time.sleep(1)
            assert request(service.url, "/healthz").status == 200
            began = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(30) == 0
            assert time.monotonic() - began < 12
