"""What a compiled program needs of a device's memory, and what the device has left."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

_CGROUP = Path("/sys/fs/cgroup")


def program_bytes(compiled: Any) -> int:
    """Bytes that a compiled program holds on each device while it runs, by XLA's own account: arguments, results that
    do not take an argument's place, what it keeps in between, and its code."""
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return int(held + found.temp_size_in_bytes + found.generated_code_size_in_bytes)


def free_bytes() -> int:
    """Bytes that are left on each of this process's devices. Processors have equal shares of the machine's memory, or
    of what the container may use."""
    devices = jax.local_devices()
    statistics = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in found for found in statistics):
        return min(int(found["bytes_limit"] - found["bytes_in_use"]) for found in statistics)
    return _machine_bytes() // len(devices)


def _machine_bytes() -> int:
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # Linux; elsewhere all of the memory counts as free
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable:")]
        free = 1024 * int(line.split()[1])
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no container, or "max" for one without a limit
            free = min(free, int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text()))
    return max(free, 0)
