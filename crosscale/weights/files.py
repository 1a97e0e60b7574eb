"""Weight files: told apart by their content, read with a clear error, written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from crosscale.errors import RequestError
from crosscale.weights.mindspore_file import read_mindspore
from crosscale.weights.rules import Flat
from crosscale.weights.torch_file import read_torch, write_torch
from crosscale.weights.wrappers import unwrapped

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own limit


def read_tensors(path: str | Path, key: str = "") -> Flat:
    """All tensors of a weight file by name, whatever project wrote it.

    safetensors, PyTorch's `.pth` (needs PyTorch) and MindSpore's `.ckpt` are told apart by their first bytes; the
    file's suffix decides only where these say nothing. Prefixes that all names share ("module.", "_orig_mod.",
    "model.", ...) are taken off.

    Args:
      key: of several sets of weights in one file, the one to take, such as "model" or "state_dict_ema"; "" takes the
        average where timm would, else "model" or "state_dict", and logs what else there is.

    Raises:
      RequestError: the file is missing, empty, damaged, of no known kind, or would run code, or there are no weights
        under `key`.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: no such weight file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from None
    if size == 0:
        raise RequestError(f"{path}: is empty (0 bytes); it was not written or downloaded whole")
    flat, key = _reader(path, start)(path, key)
    if not flat:
        raise RequestError(f"{path}: holds no tensors")
    return unwrapped(flat, key, path)


def _reader(path: Path, start: bytes) -> Callable[[Path, str], tuple[Flat, str]]:
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return lambda path, key: (read_safetensors(path)[0], key)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80" or path.suffix in TORCH_SUFFIXES:
        return read_torch
    if start[:1] == b"\n" or path.suffix == ".ckpt":  # protobuf: field 1, with a length
        return lambda path, key: (read_mindspore(path), key)
    raise RequestError(f"{path}: neither a safetensors, a PyTorch nor a MindSpore file")


def read_safetensors(path: str | Path) -> tuple[Flat, dict[str, str]]:
    """All tensors by name, and the file's metadata.

    Raises RequestError when the file is missing, is not readable, or is not a whole safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: no such weight file")
    try:
        _check_header(path)
        with safe_open(str(path), framework="flax") as file:
            metadata = dict(file.metadata() or {})
            # through flax (ml_dtypes): the numpy reader does not know bfloat16
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}, metadata  # noqa: SIM118
    except AttributeError as error:  # NumPy has no such type, such as the 8-bit floats
        raise RequestError(
            f"{path}: holds numbers of a type that is not read ({_short(error)}); save them as float32 or bfloat16"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{path}: not a whole safetensors file ({_short(error)})") from error


def write_tensors(path: str | Path, flat: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes a `.safetensors` file, or with a suffix of PyTorch's (`.pth`, `.pt`, `.bin`) a state dict.

    Raises RequestError where PyTorch is needed and not installed, and for another suffix: the file would not be what
    its name says.
    """
    if Path(path).suffix.lower() not in (".safetensors", *TORCH_SUFFIXES):
        raise RequestError(f"{path}: weights are written as .safetensors or {', '.join(TORCH_SUFFIXES)}; name it so")
    if Path(path).suffix in TORCH_SUFFIXES:
        _written(path, lambda temporary: write_torch(temporary, flat, Path(path)))
    else:
        write_safetensors(path, flat, metadata)


def write_safetensors(path: str | Path, flat: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes beside the target and moves into place, so that no reader ever sees half a file."""
    arrays = {k: np.asarray(v, order="C") for k, v in flat.items()}
    _written(path, lambda temporary: save_file(arrays, temporary, metadata=metadata or {}))


def _written(path: str | Path, write: Callable[[str], None]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check_header(path: Path) -> None:
    """Raises ValueError for a header that is cut off or names a tensor twice, which the library lets pass."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(_HEADER_LIMIT, path.stat().st_size - 8):
            raise ValueError("the header is cut off")
        header = file.read(length)
    json.loads(header, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            raise ValueError(f"the header has the key '{name}' twice")
        seen[name] = value
    return seen


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
