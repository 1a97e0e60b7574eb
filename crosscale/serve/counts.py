"""What the service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from crosscale.serve.admission import Bounded

CONTENT_TYPE = CONTENT_TYPE_LATEST


class ServiceCounts:
    """The counters of one service; each has its own registry, so that two may live in one process."""

    def __init__(self, pictures: Bounded, held: Bounded) -> None:
        """
        Args:
          pictures: accepted and not yet answered.
          held: bytes of request bodies.
        """
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("crosscale_requests", "Answered requests", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "crosscale_request_seconds",
            "From the headers to the answer, in seconds",
            ["endpoint"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.pictures = Counter("crosscale_pictures", "Pictures by outcome", ["outcome"], registry=registry)
        self.batch = Histogram(
            "crosscale_batch_pictures",
            "Real pictures per forward",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.padding = Counter("crosscale_padding_pictures", "Empty rows computed to fill a batch", registry=registry)
        self.forward = Histogram(
            "crosscale_forward_seconds", "Seconds per forward", registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )  # fmt: skip
        under_way = Gauge("crosscale_pictures_under_way", "Accepted and not yet answered", registry=registry)
        under_way.set_function(lambda: pictures.used)
        limit = Gauge("crosscale_pictures_limit", "Most accepted at a time", registry=registry)
        limit.set(pictures.limit)
        body_bytes = Gauge("crosscale_body_bytes", "Bytes of request bodies held", registry=registry)
        body_bytes.set_function(lambda: held.used)

    def on_batch(self, real: int, padded: int, seconds: float) -> None:
        self.batch.observe(real)
        self.padding.inc(padded - real)
        self.forward.observe(seconds)

    def refused(self, status: int) -> None:
        """Counts an answer to what none of the endpoints took: another path or method, or no HTTP."""
        self.requests.labels("", status).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
