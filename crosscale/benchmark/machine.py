"""What a measurement ran on: the processor, its memory and the versions; no names of hosts, users or folders."""

import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from crosscale.benchmark.stopwatch import cores

_PACKAGES = ("crosscale", "jax", "jaxlib", "flax", "optax", "numpy")


def describe_machine(rows: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The machine, and what the measuring processes said of theirs.

    Args:
      rows: of a measurement, whose "versions" and "device" are taken in.

    Returns:
      "processor", "cores" (those this process may use), "memory_bytes", "system", "python", "versions", "devices".
    """
    versions = _versions()
    devices = set()
    for row in rows:
        versions |= row.get("versions") or {}
        devices |= {row["device"]} if row.get("device") else set()
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "devices": sorted(devices),
    }


def load_average() -> float | None:
    """Processes that want to run, over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _processor() -> str:
    """The model, with family and stepping where the name alone does not tell one from another."""
    fields: dict[str, str] = {}
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                break
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    flags = set(fields.get("flags", "").split())
    units = [name for name, flag in (("AVX-512", "avx512f"), ("AMX", "amx_tile")) if flag in flags]
    numbers = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields['model name']} ({', '.join([numbers, *units])})"


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
