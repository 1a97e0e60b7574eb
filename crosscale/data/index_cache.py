"""Indices of large data sets kept between runs, and a sign of life while one is built."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import numpy as np

from crosscale.data.strings import Strings
from crosscale.runtime import own_cache, tell

log = logging.getLogger("crosscale.data")

# Below this, building the index anew is quicker than finding out whether to trust the stored one.
CACHED_FROM = 10_000
# File systems stamp times in steps of up to 2 s: what changed so shortly before it was read may change again
# without a new stamp.
RACY_NS = 2_000_000_000
_VERSION = 4


def load_index(kind: str, *place: str) -> dict[str, np.ndarray] | None:
    """The arrays stored for a place (a path and what else identifies it); None if there are none to be read."""
    try:
        with np.load(_file(kind, place, make=False), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # damage makes zipfile, zlib and NumPy's reader of headers raise anything
        return None


def pack_counts(counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """How many files of each extension were passed over, as arrays for `save_index`."""
    kinds = Strings.of(counts)
    return {
        "extensions": kinds.data,
        "extension_ends": kinds.ends,
        "counts": np.fromiter(counts.values(), np.int64, len(counts)),
    }


def unpack_counts(stored: Mapping[str, np.ndarray]) -> dict[str, int]:
    """What `pack_counts` packed."""
    kinds = Strings(stored["extensions"], stored["extension_ends"])
    return dict(zip(kinds, stored["counts"].tolist(), strict=True))


def save_index(arrays: Mapping[str, np.ndarray], kind: str, *place: str) -> None:
    """Stores arrays for `place`. A folder that cannot be written costs time next time, not the run."""
    try:
        file = _file(kind, place, make=True)
    except OSError as error:
        log.warning("%s: the index cannot be kept for next time (%s)", error.filename, error.strerror or error)
        return
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(temporary, file)
    except OSError as error:
        log.warning("%s: the index cannot be kept for next time (%s)", file.parent, error.strerror or error)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _file(kind: str, place: tuple[str, ...], *, make: bool) -> Path:
    """The file of an index. Raises OSError as `own_cache` does."""
    key = sha256(b"\0".join(os.fsencode(part) for part in place)).hexdigest()[:24]
    return own_cache("index", make=make) / f"{kind}-v{_VERSION}-{key}.npz"


class Counter:
    """Says on standard error how far a long count is: one changing line on a terminal, else a line now and then.

    Nothing is shown before two seconds have passed.
    """

    def __init__(self, what: str, unit: str, *, every: float | None = None) -> None:
        """
        Args:
          what: stands before the numbers.
          unit: what is counted, in the plural.
          every: seconds between lines; None is 0.2 on a terminal and 10 elsewhere.
        """
        self._what, self._unit = what, unit
        self._live = sys.stderr.isatty()
        self._every = (0.2 if self._live else 10.0) if every is None else every
        self._began = time.monotonic()
        self._next = self._began + (2.0 if every is None else every)
        self._shown = False
        self.count = 0

    def add(self, count: int) -> None:
        """Counts on, and shows it when it is time."""
        self.count += count
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._show(now)

    def _show(self, now: float) -> None:
        rate = self.count / max(now - self._began, 1e-9)
        text = f"{self._what}: {self.count:,} {self._unit}, {rate:,.0f}/s"
        tell(f"\r{text}\x1b[K" if self._live else text, end="" if self._live else "\n")
        self._shown = True

    def __enter__(self) -> "Counter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and self._live:
            tell("\r\x1b[K", end="")
