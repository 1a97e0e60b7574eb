"""200 clients at once, with pictures of mixed sizes and broken files: every request gets an answer."""

from client import metric, request, serving, until

from benchmarks.serve_load import load


def test_every_request_of_200_clients_is_answered(tiny_run):
    with serving(tiny_run, "--queue", 64) as service:
        result = load(service.url, clients=200, seconds=5)
        assert result["unanswered"] == 0
        assert result["failed"] == 0
        assert result["answered"] > 100
        assert result["broken_answered"] > 5
        assert result["refused"] > 0  # 200 clients do not fit into a queue of 64
        assert result["pictures_per_forward"] > 1.2
        until(lambda: metric(service.url, "crosscale_pictures_under_way") == 0)
        assert metric(service.url, "crosscale_body_bytes") == 0
        assert request(service.url, "/healthz").status == 200
        assert not [line for line in service.errors if "Traceback" in line]
