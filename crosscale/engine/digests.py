"""Digests of a folder's files, written beside them: TensorStore reads a changed number back without a word."""

import hashlib
import json
from pathlib import Path

from crosscale.errors import WorkError

FILE = "digests.json"


def write_digests(folder: Path) -> None:
    """Writes the BLAKE2b digest of every file below `folder` into its `digests.json`."""
    found = {str(path.relative_to(folder)): _digest(path) for path in sorted(_files(folder))}
    (folder / FILE).write_text(json.dumps(found, indent=1), encoding="utf-8")


def check_digests(folder: Path, below: tuple[str, ...]) -> None:
    """Compares the files of some of its folders with their digests; passes where none were written.

    Raises:
      WorkError: a file is missing or is not the one that was written.
    """
    if not (folder / FILE).exists():
        return
    try:
        written = dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except ValueError:
        raise WorkError(f"{FILE} is damaged") from None
    for name, digest in written.items():
        if Path(name).parts[0] not in below:
            continue
        path = folder / name
        if not path.is_file():
            raise WorkError(f"{name} is missing")
        if _digest(path) != digest:
            raise WorkError(f"{name} is damaged: it is not what was written")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != FILE]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
