"""What training code wraps around weights: keys of a checkpoint, prefixes of names. Taken off alike for all files."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crosscale.errors import RequestError

log = logging.getLogger("crosscale")

_T = TypeVar("_T", bound=Any)

# The average comes first where timm, whose keys these two are, takes it (`load_state_dict(use_ema=True)`).
_PREFERRED = ("state_dict_ema", "model_ema", "model", "state_dict", "model_state_dict")
# What precedes every name: DataParallel, torch.compile, Fabric, FSDP, Lightning and the hub's mixin, averages, and the
# keys of checkpoints that were flattened.
_WRAPPERS = "module _orig_mod _forward_module _fsdp_wrapped_module net network"
_AVERAGES = "ema ema_model online_model averaged_model student teacher"
_PREFIXES = frozenset((*_PREFERRED, *_WRAPPERS.split(), *_AVERAGES.split()))


def choose(options: Iterable[str], key: str, source: Path, left: Iterable[str] = ()) -> tuple[str, str]:
    """Which of several sets of weights to take.

    Args:
      options: where weights are.
      key: the one that was asked for, perhaps followed by ".more" for a choice inside it; "" chooses as its own project
        would.
      left: other keys of the file, for the log.

    Returns:
      The option, and what is left of `key`.

    Raises:
      RequestError: it has none of that name, or nothing says which of several it is.
    """
    names = list(options)
    asked = next((name for name in sorted(names, key=len, reverse=True) if f"{key}.".startswith(f"{name}.")), None)
    if asked is not None:
        return asked, key[len(asked) + 1 :]
    if key and len(names) > 1:
        raise RequestError(f"{source}: holds no weights under '{key}'; it has {', '.join(names)}")
    found = next((name for name in _PREFERRED if name in names), names[0] if len(names) == 1 else None)
    if found is None:
        raise RequestError(
            f"{source}: holds several sets of weights ({', '.join(names)}); say which: --weights-key {names[0]}, or "
            f"key='{names[0]}' in Python"
        )
    others = [name for name in names if name != found]
    if others and not key:
        log.warning(
            "%s: took the weights under '%s'; there are also %s (--weights-key chooses)",
            source,
            found,
            ", ".join(others),
        )
    else:
        beside = ", ".join([*others, *left])
        log.info("%s: took the weights under '%s'%s", source, found, f"; left {beside}" if beside else "")
    return found, key


def unwrapped(flat: Mapping[str, _T], key: str, source: Path) -> dict[str, _T]:
    """The tensors under their own names, without the prefixes that all of them share.

    A number that the wrapper itself keeps beside them, such as PyTorch's "n_averaged", goes with the prefix.

    Args:
      key: see `choose`.

    Raises:
      RequestError: as `choose` does.
    """
    found = dict(flat)
    while True:
        held = [name for name, value in found.items() if "." in name or np.size(value) != 1]
        heads = dict.fromkeys(name.partition(".")[0] for name in held)
        wrapped = bool(held) and all("." in name for name in held) and _PREFIXES.issuperset(heads)
        if key and not wrapped:  # what was asked for may stand beside other things
            heads = dict.fromkeys(
                head
                for head in heads
                if f"{key}.".startswith(f"{head}.") and any(name.startswith(f"{head}.") for name in found)
            )
            wrapped = bool(heads)
        if not wrapped:
            break
        head, key = (next(iter(heads)), key) if len(heads) == 1 and not key else choose(heads, key, source)
        found = {name[len(head) + 1 :]: value for name, value in found.items() if name.startswith(f"{head}.")}
    if key:
        raise RequestError(f"{source}: holds no weights under '{key}'")
    return found
