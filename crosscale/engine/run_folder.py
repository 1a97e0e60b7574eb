"""A run's output folder: one run, one writer, and no half-written part."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import filelock

from crosscale.errors import RequestError

RECIPE, METRICS, CHECKPOINTS, BEST = "recipe.yaml", "metrics.jsonl", "checkpoints", "best"
LOCK = ".lock"
ENVIRONMENT = "environment.json"


def holds_run(folder: Path) -> bool:
    """Whether a run has written here."""
    return any((folder / name).exists() for name in (RECIPE, METRICS, CHECKPOINTS, BEST))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps the folder for this process; the lock goes with the process, however that ends.

    Raises:
      RequestError: another process has it, or the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RequestError(
            f"{folder}: another process is training into it; wait, or choose another --output-dir"
        ) from None
    except FileExistsError:
        raise RequestError(f"{folder}: is a file, not a folder; choose another --output-dir") from None
    except NotADirectoryError:
        raise RequestError(f"{folder}: lies below a file, not a folder; choose another --output-dir") from None
    except PermissionError:
        raise RequestError(f"{folder}: no permission to write there; choose another --output-dir") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def started(folder: Path, has_begun: Callable[[], bool]) -> Iterator[None]:
    """`locked`, and a start that fails takes away what it has written into a new folder, and the folders it has made.

    Args:
      has_begun: asked where it failed: whether there is something to keep.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with locked(folder):
        fresh = [path.name for path in folder.iterdir()] == [LOCK]
        try:
            yield
        except BaseException:
            if fresh and folder.exists() and not has_begun():
                _remove(folder, made)
            raise


def _remove(folder: Path, made: Sequence[Path]) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in made:
        with suppress(OSError):  # another run has begun in it
            path.rmdir()


def claim_next(parent: Path, name: str) -> Path:
    """Makes <parent>/<name>-<n> with the first n that is free, also where others do so at the same time.

    Raises:
      RequestError: there is no permission to make it.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for n in count(1):
            with suppress(FileExistsError):
                (parent / f"{name}-{n}").mkdir()
                return parent / f"{name}-{n}"
    except OSError as error:
        raise RequestError(f"{parent}: no run folder can be made there ({error.strerror}); give --output-dir") from None
    raise AssertionError  # there is always a next number


def is_training(folder: Path) -> bool:
    """Whether a process has the folder for itself just now: see `locked`."""
    if not (folder / LOCK).exists():
        return False
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    return False


def disc_is_full(error: BaseException | None) -> bool:
    """Whether an error or its cause is a disc without space: libraries report that in their own types."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__ or error.__context__
    return False


def whole_checkpoints(folder: Path) -> list[int]:
    """Steps of the checkpoints of the run in `folder`; one that is being written does not count."""
    return sorted(int(path.name) for path in (folder / CHECKPOINTS).glob("*") if path.name.isdigit())


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all. What is no text, as in a file's name, is spelt out."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fills a new folder and puts it in place of `target`, so that no reader sees a mixture."""
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new-"))
    try:
        fill(temporary)
        os.chmod(temporary, 0o777 & ~_umask())
        old = _retired(target)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def repair(target: Path) -> None:
    """Undoes a `replace_folder` that was cut off: between its two renames only the old folder is there."""
    old = _retired(target)
    if old.exists() and not target.exists():
        os.replace(old, target)
    for left in [old, *target.parent.glob(f".{target.name}.new-*")]:
        shutil.rmtree(left, ignore_errors=True)


def _retired(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
