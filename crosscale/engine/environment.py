"""Where a run ran: versions, devices, git state, seed, peak memory and the command, kept in the run folder."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crosscale.engine.run_folder import ENVIRONMENT, write_text

_PACKAGES = ("crosscale", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def record_environment(
    folder: Path,
    command: Sequence[str] | None = None,
    *,
    seed: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Writes, or brings up to date, `environment.json`; peaks of memory only rise.

    Args:
      command: the words after `crosscale` that started the run; None keeps what is there.
      seed: of the run; None keeps what is there.
      data: what the run's data holds, as JSON; likewise.
    """
    path = folder / ENVIRONMENT
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = {}
    new = describe_environment()
    for key in ("peak_host_bytes", "peak_device_bytes"):
        peaks = [value for value in (old.get(key), new[key]) if isinstance(value, int)]
        new[key] = max(peaks, default=None)
    new["command"] = old.get("command") if command is None else "crosscale " + shlex.join(command)
    new["seed"] = old.get("seed") if seed is None else seed
    new["data"] = old.get("data") if data is None else data
    write_text(path, json.dumps(new, indent=2, ensure_ascii=False) + "\n")


def describe_environment() -> dict[str, Any]:
    """Versions, devices, git state and peaks of memory of this process (bytes); None for what is not known."""
    import jax

    devices = jax.local_devices()
    statistics = [device.memory_stats() or {} for device in devices]
    peaks = [stat["peak_bytes_in_use"] for stat in statistics if "peak_bytes_in_use" in stat]
    return {
        "versions": {"Python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": devices[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "git": git_state(),
        "peak_host_bytes": _peak_host_bytes(),
        "peak_device_bytes": max(peaks, default=None),
    }


@cache
def git_state() -> dict[str, Any] | None:
    """The working folder's repository when this was first asked: "commit" and "dirty".

    Dirty is a repository whose tracked files differ from the commit. None where there is no repository, no commit
    or no git.
    """
    try:
        commit = _git("rev-parse", "--verify", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no").strip())}
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None


def _git(*words: str) -> str:
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # only looks: does not refresh the index
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=20, env=quiet)
    return done.stdout


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def resident_bytes() -> int | None:
    """What this process holds in memory now; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return _peak_host_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak_host_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
