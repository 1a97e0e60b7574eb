"""The service's limits and its ways of saying no."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from crosscale.errors import RequestError

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What the service accepts, and how it batches.

    Attributes:
      max_bytes: of one request's body.
      max_pixels: of one picture, as its header declares them.
      max_images: pictures in one request.
      queue: pictures accepted and not yet answered, in all; beyond it requests are refused with 429.
      held_bytes: of all request bodies held at once, half of them by one client; beyond it requests are refused with
        429.
      body_seconds: for a client to send its headers, and again its body.
      answer_seconds: from a complete body to the answer.
      max_batch: pictures per forward; the compiled batch sizes are the powers of two up to it.
      max_delay: seconds that a picture waits for others to share its forward.
      token: asked of the clients as "Authorization: Bearer ..."; None asks nothing.
      origins: of pages elsewhere that may read the answers in a browser, such as "https://example.org"; "*" is any.
      hosts: names by which the service may be addressed; empty, or "*" among them, is any. A page elsewhere reaches a
        service on the user's own machine by a name of its own that it points there ("DNS rebinding").
    """

    max_bytes: int = 16 * MEGABYTE
    max_pixels: int = 40_000_000
    max_images: int = 32
    queue: int = 128
    held_bytes: int = 256 * MEGABYTE
    body_seconds: float = 20.0
    answer_seconds: float = 30.0
    max_batch: int = 16
    max_delay: float = 0.005
    token: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("token", "origins", "hosts") and value <= 0:
                raise RequestError(f"{name}={value}: must be above 0")
        if self.max_images > self.queue:
            raise RequestError(f"max_images={self.max_images} exceeds queue={self.queue}: such a request never fits")
        if self.max_bytes > self.held_bytes // 2:  # what one client may hold; see `Bounded.growing`
            raise RequestError(
                f"max_bytes={self.max_bytes} exceeds half of held_bytes={self.held_bytes}, what one client may "
                f"hold: such a body never fits; give held_bytes={2 * self.max_bytes}"
            )
        if self.token is not None and not self.token.strip():
            raise RequestError("the token is empty; give one, or leave it out")
        if self.token is not None and any(ord(letter) < 32 or ord(letter) == 127 for letter in self.token):
            raise RequestError("the token holds a line break or another control character, which no header can")
        for host in self.hosts:
            if host != "*" and (host_name(host) != host or "/" in host):
                raise RequestError(f"the host {host!r}: write a name alone, such as example.org, or '*' for any")
        for origin in self.origins:
            parts = urlsplit(origin)
            whole = f"{parts.scheme}://{parts.netloc}"
            if origin != "*" and (parts.scheme not in ("http", "https") or not parts.netloc or origin != whole):
                raise RequestError(f"the origin {origin!r}: write https://example.org, without a path, or '*' for any")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The compiled batch sizes: powers of two, and `max_batch` itself."""
        sizes = [1 << power for power in range(self.max_batch.bit_length()) if 1 << power < self.max_batch]
        return (*sizes, self.max_batch)


def host_name(header: str) -> str:
    """The name in a Host header, without its port, a final point and the brackets of an IPv6 address, in lower case."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return (name if name.count(":") > 1 else name.partition(":")[0]).rstrip(".")


class Refused(Exception):  # noqa: N818
    """A request, or one picture of it, that is answered with an error.

    Attributes:
      status: the HTTP status.
      reason: one line that says what is wrong and what would work.
      retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        self.status = status
        # Half a character, as JSON can hold one and UTF-8 cannot, is spelt out: the answer has to be written.
        self.reason = " ".join(reason.split()).encode("utf-8", "backslashreplace").decode("utf-8")
        self.retry_after = retry_after
        super().__init__(self.reason)
