"""`crosscale predict --sort-into DIR`: a copy of each picture in the folder of its class."""

import filecmp
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.output import check_outside, free_name, note, short_stem
from crosscale.data.names import LONGEST
from crosscale.data.pictures import SEPARATOR
from crosscale.errors import RequestError, WorkError

if TYPE_CHECKING:
    from crosscale.tasks.task import Task

UNKNOWN = "unknown"
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f]')  # in the name of a folder, on one system or another


class SortedCopies:
    """Copies into a folder per class, and never over a file that is there.

    A picture's name in the copy follows from all pictures' names alone, not from what was copied before, so that a run
    that goes on finds what it has copied already.

    Attributes:
      count: pictures that were given and have their copy.
    """

    def __init__(self, folder: Path, task: "Task", searched: Sequence[str], files: Sequence[Path]) -> None:
        """
        Args:
          task: says the class of a picture.
          searched: where the pictures were looked for.
          files: all pictures.

        Raises:
          RequestError: the task gives a picture no single class, the next search would find the copies, an example is
            several pictures, or a class has too long a name for a folder.
        """
        if "class" not in task.cells(task.failure("", "").json()):
            raise RequestError(f"--sort-into {folder}: a result of the task {task.name} is not one class")
        check_outside("--sort-into", folder, searched, "the copies")
        several = next((file for file in files if SEPARATOR in str(file) and not os.path.exists(file)), None)
        if several is not None:
            raise RequestError(
                f"--sort-into {folder}: {several} is several pictures, and copies are of one; --output results.csv has "
                "the class of each"
            )
        self._folder, self._task, self.count = folder.expanduser(), task, 0
        # Pictures of a class called unknown stay apart from those without an answer.
        taken: dict[str, int] = {}
        self._folders = {name: free_name(_safe(name), taken) for name in task.labels}
        self._unknown = free_name(UNKNOWN, taken)
        for name, own in self._folders.items():
            if len(os.fsencode(own)) > LONGEST:
                raise RequestError(
                    f"--sort-into {folder}: the class {name[:30]!r}... has too long a name for a folder; give shorter "
                    "names (--classes)"
                )
        ends: dict[str, dict[str, int]] = {}
        self._names = {
            file: free_name(short_stem(file), ends.setdefault(file.suffix.casefold(), {})) + file.suffix
            for file in files
        }

    def add(self, file: Path, result: Mapping[str, Any]) -> None:
        """Copies a picture by its result, given as JSON; one that could not be used is left alone. Raises WorkError."""
        if result["error"] is not None:
            return
        answer = str(self._task.cells(result)["class"])
        rejected = "answer" in result and answer == UNKNOWN and answer != result["classes"][0]
        folder = self._folder / (self._unknown if rejected else self._folders[answer])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for place in _places(folder, self._names[file]):
                if place.exists() and filecmp.cmp(file, place, shallow=False):
                    break
                if not place.exists():
                    _copy(file, place)
                    break
        except OSError as error:
            raise WorkError(f"--sort-into {folder}: {error.strerror or error}: {error.filename or file}") from None
        self.count += 1

    def tell(self) -> None:
        """Prints how many there are."""
        note(f"crosscale predict: {self.count:,} pictures are in the folders of their classes in {self._folder}")


def _copy(file: Path, place: Path) -> None:
    """Copies whole or not at all. The run that goes on overwrites what a killed run left of a copy."""
    # Every folder takes a name of this length, however long the picture's own is.
    picture = hashlib.sha256(os.fsencode(file.absolute())).hexdigest()[:12]
    temporary = place.with_name(f".{picture}.copy")
    try:
        shutil.copy2(file, temporary)
        os.replace(temporary, place)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _places(folder: Path, name: str) -> Iterator[Path]:
    """`name` in the folder, then with -2, -3 and so on before its end."""
    path, count = folder / name, 2
    yield path
    while True:
        yield path.with_stem(f"{path.stem}-{count}")
        count += 1


def _safe(name: str) -> str:
    """A name that a folder may have on any system, neither hidden nor pointing upward."""
    return _UNSAFE.sub("_", name).strip(" .") or "_"
