"""safetensors files: read with a clear error, written whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from crosscale.errors import RequestError
from crosscale.weights.rules import Flat


def read_safetensors(path: str | Path) -> tuple[Flat, dict[str, str]]:
    """All tensors by name, and the file's metadata.

    Raises RequestError when the file is missing, is not readable, or is not a whole safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: no such weight file")
    try:
        with safe_open(str(path), framework="flax") as file:
            metadata = dict(file.metadata() or {})
            # through flax (ml_dtypes): the numpy reader does not know bfloat16
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{path}: not a whole safetensors file ({_short(error)})") from error


def write_safetensors(path: str | Path, flat: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes beside the target and moves into place, so that no reader ever sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file({k: np.asarray(v, order="C") for k, v in flat.items()}, temporary, metadata=metadata or {})
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
