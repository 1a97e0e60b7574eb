"""PyTorch's `.pth` files: read without ever running what a pickle asks for. Needs the `torch` extra."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.errors import RequestError
from crosscale.weights.rules import Flat
from crosscale.weights.wrappers import choose

_DEPTH = 3  # how deep inside a checkpoint weights are looked for
_SHARED = 4  # how often tensors may share the bytes of the file, as tied weights do


class Ignored:
    """Takes the place of a settings object that was saved beside the weights; keeps nothing of it."""

    def __new__(cls, *args: object) -> "Ignored":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


# Harmless classes in place of those that training code saves: CrossViT's its command line, CrossFormer's its
# configuration, which is a dictionary and is filled like one.
_STAND_INS = ((Ignored, "argparse.Namespace"), (OrderedDict, "yacs.config.CfgNode"))


def read_torch(path: Path, key: str = "") -> tuple[Flat, str]:
    """The tensors of a state dict, or of one inside a checkpoint.

    Only tensors, plain containers and numbers are unpickled (`weights_only`).

    Args:
      key: which one; see `wrappers.choose`.

    Returns:
      The tensors by name, and what is left of `key`.

    Raises:
      RequestError: PyTorch is not installed, the file is damaged, asks for anything else to be built, unpacks to
        more than it holds, or has no state dict.
    """
    torch = _torch(path, "reading")
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(list(_STAND_INS)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(f"{path}: refused, because it holds more than weights ({_reason(error)})") from None
    except MemoryError:
        raise
    except Exception as error:  # damage makes pickle and PyTorch raise anything
        raise RequestError(f"{path}: not a whole PyTorch file ({_reason(error)})") from None
    tensors, key = _state_dict(torch, content, path, key)
    _check_size(tensors, path)
    return {name: _array(torch, name, tensor, path) for name, tensor in tensors.items()}, key


def write_torch(path: str, flat: Mapping[str, np.ndarray], named: Path | None = None) -> None:
    """Writes a plain state dict.

    Args:
      named: what the error calls the file, which may be a temporary one.

    Raises RequestError without PyTorch.
    """
    torch = _torch(named or Path(path), "writing")
    torch.save({name: torch.from_numpy(np.array(value, order="C")) for name, value in flat.items()}, path)


def _torch(path: Path, doing: str) -> Any:
    try:
        import torch
    except ImportError:
        raise RequestError(
            f"{path}: {doing} a PyTorch file needs PyTorch, which is not installed: pip install 'crosscale[torch]' "
            "(.safetensors files need nothing)"
        ) from None
    return torch


def _check_archive(path: Path) -> None:
    """Refuses a zip bomb. torch.save stores without compression, so the parts never outweigh the file."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise RequestError(f"{path}: not a whole PyTorch file ({_reason(error)})") from None
    if any(part.filename.endswith("/constants.pkl") for part in parts):
        raise RequestError(
            f"{path}: a TorchScript archive, which holds a program beside its weights; in PyTorch save these alone: "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), ...)"
        )
    unpacked, held = sum(part.file_size for part in parts), path.stat().st_size
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if unpacked > held or packed:
        raise RequestError(
            f"{path}: refused: {held:,} bytes that unpack to {unpacked:,}; PyTorch writes its files uncompressed"
        )


def _state_dict(torch: Any, content: Any, path: Path, key: str) -> tuple[dict[str, Any], str]:
    if _is_state_dict(torch, content):
        return dict(content), key
    states = _states(torch, content, _DEPTH) if isinstance(content, dict) else {}
    if not states:
        keys = ", ".join(map(str, content))[:120] if isinstance(content, dict) else type(content).__name__
        raise RequestError(f"{path}: no state dict in it, nor under its keys; it holds {keys}")
    used = {name.partition(".")[0] for name in states}
    found, key = choose(states, key, path, [str(name) for name in content if name not in used])
    return states[found], key


def _states(torch: Any, content: dict[Any, Any], depth: int) -> dict[str, dict[str, Any]]:
    """The state dicts inside a checkpoint, by their keys; what an optimizer keeps has numbers for keys."""
    states: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if _is_state_dict(torch, value):
            states[name] = value
        elif isinstance(value, dict) and depth > 1:
            inner = _states(torch, value, depth - 1)
            states |= {name if len(inner) == 1 else f"{name}.{key}": state for key, state in inner.items()}
    return states


def _check_size(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuses views that repeat a few bytes, alone or by many names, and would unfold to any size."""
    held: dict[int, int] = {}
    unfolded = 0
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            continue
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        if size > storage.nbytes():
            raise RequestError(f"{path}: refused: {name} has shape {tuple(tensor.shape)}, more than the file holds")
        held[storage.data_ptr()] = storage.nbytes()
        unfolded += size
    if unfolded > _SHARED * sum(held.values()):
        raise RequestError(
            f"{path}: refused: {len(tensors):,} tensors of {unfolded:,} bytes in all, where the file holds "
            f"{sum(held.values()):,}"
        )


def _is_plain(tensor: Any) -> bool:
    return str(tensor.layout) == "torch.strided" and not tensor.is_quantized and tensor.device.type == "cpu"


def _is_state_dict(torch: Any, value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def _array(torch: Any, name: str, tensor: Any, path: Path) -> np.ndarray:
    if not _is_plain(tensor):
        raise RequestError(f"{path}: {name} is a sparse, quantized or empty tensor; only plain ones can be read")
    tensor = tensor.detach().resolve_neg().resolve_conj()
    try:
        return np.array(tensor.numpy(), order="C")
    except TypeError:  # NumPy lacks bfloat16 and the kinds of 8 bits
        if not tensor.dtype.is_floating_point:
            raise RequestError(
                f"{path}: {name} is of {tensor.dtype}; only numbers that NumPy has can be read"
            ) from None
    return np.array(tensor.to(torch.float32).numpy(), order="C")


def _reason(error: Exception) -> str:
    """What went wrong, in one line: what torch found, without its long advice to trust the file."""
    text = " ".join(str(error).split())
    _, mark, found = text.partition("WeightsUnpickler error: ")
    return (found if mark else text)[:160].split(" Please use ")[0].rstrip(". ") or type(error).__name__
