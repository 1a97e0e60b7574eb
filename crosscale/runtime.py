"""Settings of the process that make work start sooner and memory stay: compiled programs on disc, glibc's malloc."""

import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

# Large temporaries go back to the system after every step, and their pages are faulted in again by the next one.
# These keep them: no block is mapped by itself, so that all come from the heap, whose top is never trimmed and grows by
# 64 MB. Only the main thread's heap may grow so far: see `prepare_jax`.
MALLOC = {"MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": (1 << 64) - 1, "MALLOC_TOP_PAD_": 1 << 26}
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_MAX_": -4}

COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event after a compilation, or in place of one
LONG_COMPILATION = 0.5  # seconds; after a shorter one there is little to give back

COMPILE_CACHE = "CROSSCALE_COMPILE_CACHE"
COMPILE_CACHE_BYTES = 2 << 30


def package_version() -> str:
    """The version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("crosscale")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"


def is_installed(module: str) -> bool:
    """Whether a library can be imported; a folder of its name in the working folder, as some libraries make one for
    their files, is found too, but as a package without a file."""
    found = find_spec(module)
    return found is not None and found.origin is not None


class Lasting:
    """A stream whose writing never fails, for displays on a terminal that may go away before the work is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # What is left in the stream, and all that follows, needs a place to go.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return len(text)

    def flush(self) -> None:
        pass  # `write` has done so

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell(text: str, end: str = "\n") -> None:
    """Prints text on standard error. Work goes on where that takes nothing any more.

    As behind `2>&1 | head`, in a file on a full disc, or on a terminal that is gone.
    """
    if sys.stderr is not None:  # or closed from the beginning
        Lasting(sys.stderr).write(text + end)


def printable(text: str) -> str:
    """The text with control characters (escapes in a file's name) and bytes that are no text spelt out."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def shown_duration(seconds: float) -> str:
    """A time in the two units that matter: "41 s", "3 min 12 s", "5 h 20 min", "3 d 4 h"."""
    whole = max(0, round(seconds))
    for size, unit, smaller, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def cache_folder() -> Path:
    """$CROSSCALE_CACHE, or crosscale/ below $XDG_CACHE_HOME or ~/.cache. Raises OSError without a home folder."""
    try:
        if given := os.environ.get("CROSSCALE_CACHE"):
            return Path(given).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path("~/.cache").expanduser()) / "crosscale"
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, str(error), "~") from None


def own_cache(part: str, *, make: bool = True) -> Path:
    """The folder of one part of the cache.

    Whoever can write there can have code run, or other pictures taken for ours: nobody else may.

    Args:
      make: whether it is made where it is missing.

    Raises:
      OSError: there is no home folder, the folder is missing or cannot be made or written, or it is another user's.
    """
    folder = cache_folder() / part
    if make:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    foreign = hasattr(os, "getuid") and found.st_uid != os.getuid()
    if foreign or found.st_mode & stat.S_IWOTH or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EPERM, "is another user's, or another user can write there", str(folder))
    return folder


def keep_compiled_programs(environment: MutableMapping[str, str] | None = None) -> Path | None:
    """Has JAX keep what it compiles in the user's cache folder, up to `COMPILE_CACHE_BYTES`, least recently used out.

    Has to come before JAX is imported. Child processes inherit it. JAX's own variable for the folder goes first, and
    then nothing is touched.

    Args:
      environment: where the settings are read and written; the process's own when None.

    Returns:
      The folder; None where `CROSSCALE_COMPILE_CACHE=0`, JAX's variables or an unwritable place leave it off.
    """
    env = os.environ if environment is None else environment
    if env.get(COMPILE_CACHE) == "0" or "JAX_COMPILATION_CACHE_DIR" in env:
        return None
    try:
        folder = own_cache("compiled")
        _repair(folder)
    except OSError:
        return None
    env["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    env.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(COMPILE_CACHE_BYTES))
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    return folder


def _repair(folder: Path) -> None:
    """Removes halves that a killed process left: JAX writes an entry, then the time of its use, under one lock."""
    from filelock import FileLock, Timeout

    names = set(os.listdir(folder))
    halves = [name for name in names if _other_half(name) not in names and name.endswith(("-cache", "-atime"))]
    if not halves:
        return
    with suppress(Timeout), FileLock(folder / ".lockfile", timeout=2):
        names = set(os.listdir(folder))
        for name in halves:
            if name in names and _other_half(name) not in names:
                (folder / name).unlink(missing_ok=True)


def _other_half(name: str) -> str:
    key, _, kind = name.rpartition("-")
    return f"{key}-{'atime' if kind == 'cache' else 'cache'}"


def keep_memory() -> bool:
    """Has malloc keep freed memory for the next step. False where the C library is not glibc or does not take it.

    What the user has set through `MALLOC_*` variables or JAX's own stays.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [
        mallopt(number, ctypes.c_int(MALLOC[name] & 0xFFFFFFFF)) == 1
        for name, number in _MALLOPT.items()
        if name not in os.environ
    ]
    return all(taken)


def prepare_jax() -> None:
    """Has JAX run a processor's programs where they are called, and give back what compiling them has taken.

    Has to come before JAX looks for devices. A thread of JAX's own would get a heap of its own, which ends at 64 MB:
    the temporaries of a step would come as new pages from the system, whatever malloc keeps. What a compilation leaves
    free lies in pieces, in which those temporaries find no place: kept, it would only add to them.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    _trim_after_compilations()


@cache
def _trim_after_compilations() -> None:
    from jax import monitoring

    if platform.libc_ver()[0] != "glibc":
        return
    trim = ctypes.CDLL(None).malloc_trim

    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED and duration_secs >= LONG_COMPILATION:
            trim(0)

    monitoring.register_event_duration_secs_listener(compiled)
