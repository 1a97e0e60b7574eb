"""PyTorch's `.pth` files: read without ever running what a pickle asks for. Needs the `torch` extra."""

import logging
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crosscale.errors import RequestError
from crosscale.weights.rules import Flat

log = logging.getLogger("crosscale")

_STATE_KEYS = ("model", "state_dict", "model_state_dict")  # where projects keep the weights beside other things
_PARALLEL = "module."  # what torch's DataParallel puts before every name


class Ignored:
    """Takes the place of a settings object that was saved beside the weights; keeps nothing of it."""

    def __new__(cls, *args: object) -> "Ignored":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


# Harmless classes in place of those that training code saves: CrossViT's its command line, CrossFormer's its
# configuration, which is a dictionary and is filled like one.
_STAND_INS = ((Ignored, "argparse.Namespace"), (OrderedDict, "yacs.config.CfgNode"))


def read_torch(path: Path) -> Flat:
    """The tensors of a state dict, or of the one in a checkpoint's "model" or "state_dict".

    Only tensors, plain containers and numbers are unpickled (`weights_only`).

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
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path}: not a whole PyTorch file ({_reason(error)})") from None
    return {name: _array(torch, name, tensor, path) for name, tensor in _state_dict(torch, content, path).items()}


def write_torch(path: str, flat: Mapping[str, np.ndarray]) -> None:
    """Writes a plain state dict. Raises RequestError without PyTorch."""
    torch = _torch(Path(path), "writing")
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
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise RequestError(f"{path}: not a whole PyTorch file ({_reason(error)})") from None
    unpacked, held = sum(part.file_size for part in parts), path.stat().st_size
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if unpacked > held or packed:
        raise RequestError(
            f"{path}: refused: {held:,} bytes that unpack to {unpacked:,}; PyTorch writes its files uncompressed"
        )


def _state_dict(torch: Any, content: Any, path: Path) -> dict[str, Any]:
    found = content
    if isinstance(content, dict) and not _is_state_dict(torch, content):
        for key in _STATE_KEYS:
            if _is_state_dict(torch, content.get(key)):
                found = content[key]
                others = ", ".join(str(k) for k in content if k != key)
                log.info("%s: took the weights under '%s'%s", path, key, f"; left {others}" if others else "")
                break
    if not _is_state_dict(torch, found):
        keys = ", ".join(map(str, content))[:120] if isinstance(content, dict) else type(content).__name__
        raise RequestError(f"{path}: no state dict in it, nor under {', '.join(_STATE_KEYS)}; it holds {keys}")
    if all(name.startswith(_PARALLEL) for name in found):
        return {name.removeprefix(_PARALLEL): tensor for name, tensor in found.items()}
    return dict(found)


def _is_state_dict(torch: Any, value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def _array(torch: Any, name: str, tensor: Any, path: Path) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise RequestError(f"{path}: {name} is a sparse, quantized or empty tensor; only plain ones can be read")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        # A view that repeats its storage: a few bytes that would unfold to any size.
        raise RequestError(f"{path}: refused: {name} has shape {tuple(tensor.shape)}, more than the file holds")
    tensor = tensor.detach().resolve_neg().resolve_conj()
    wide = tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor  # NumPy lacks bfloat16
    return np.array(wide.numpy(), order="C")


def _reason(error: Exception) -> str:
    """What went wrong, in one line; of torch's long advice to trust the file only what it found."""
    text = " ".join(str(error).split())
    _, mark, found = text.partition("WeightsUnpickler error: ")
    return (found if mark else text)[:160].split(" Please use ")[0].rstrip(". ") or type(error).__name__
