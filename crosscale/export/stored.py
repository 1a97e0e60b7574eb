"""Exported programs that are kept: made once, found again by what they were made from."""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from crosscale.export.onnx import write_onnx
from crosscale.export.program import Program
from crosscale.runtime import own_cache, package_version
from crosscale.trees import flatten

PROGRAM_BYTES = 2 << 30  # of all that are kept; the one that was not used for longest goes first


def stored_onnx(program: Program) -> tuple[Path, bool]:
    """The program as an ONNX file, and whether it was there already.

    It lies in $CROSSCALE_CACHE/programs (`crosscale.runtime.cache_folder`) under a digest of the weights and of all
    that the program depends on; where nothing can be written there, in a folder that goes with the process.

    Raises:
      RequestError: a package is missing.
      WorkError: the model cannot be converted.
    """
    folder = _folder()
    file = folder / f"{_digest(program)}.onnx"
    if file.is_file():
        with suppress(OSError):
            os.utime(file)  # its last use
        return file, True
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as place:
        draft = Path(place) / file.name
        write_onnx(program, draft)
        os.replace(draft, file)
    _prune(folder, file)
    return file, False


def _folder() -> Path:
    with suppress(OSError):
        return own_cache("programs")
    passing = Path(tempfile.mkdtemp(prefix="crosscale-programs-"))
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    return passing


def _digest(program: Program) -> str:
    """The digest of the weights, the model's fields, the task and the versions; 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    predictor, task = program.predictor, program.predictor.task
    said = {
        "model": repr(predictor.model),
        "input_spec": asdict(predictor.spec),
        "task": [task.name, task.artifact_options(), program.preprocessing, program.activated],
        "versions": [package_version(), jax.__version__, version("jax2onnx")],
    }
    found.update(json.dumps(said, sort_keys=True, default=str).encode())
    for name, value in sorted(flatten(predictor.variables).items()):
        array = np.ascontiguousarray(value)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _prune(folder: Path, newest: Path) -> None:
    """Removes what was not used for longest until the rest is below `PROGRAM_BYTES`."""
    kept = 0
    with suppress(OSError):  # another process may be at it
        files = [path for path in folder.glob("*.onnx") if path != newest]
        for path in [newest, *sorted(files, key=lambda path: -path.stat().st_mtime)]:
            kept += path.stat().st_size
            if kept > PROGRAM_BYTES and path != newest:
                path.unlink(missing_ok=True)
