"""Many clients at once, with pictures of mixed sizes and broken files: every request gets an answer."""

import pytest
from client import metric, request, serving, until

from benchmarks.serve_load import load


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clients", "queue", "seconds", "answered", "broken"),
    [(40, 12, 1, 20, 0), (200, 64, 5, 100, 5)],
)
def test_every_request_is_answered(tiny_run, clients, queue, seconds, answered, broken):
    with serving(tiny_run, "--queue", queue) as service:
        result = load(service.url, clients=clients, seconds=seconds)
        assert result["unanswered"] == 0
        assert result["failed"] == 0
        assert result["answered"] > answered
        assert result["broken_answered"] > broken
        assert result["refused"] > 0  # that many clients do not fit into the queue
        assert result["pictures_per_forward"] > 1.2
        until(lambda: metric(service.url, "crosscale_pictures_under_way") == 0)
        assert metric(service.url, "crosscale_body_bytes") == 0
        assert request(service.url, "/healthz").status == 200
        assert not [line for line in service.errors if "Traceback" in line]
