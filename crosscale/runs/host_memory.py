"""What a training on processors takes of the machine: for small models above all the process and its compiler."""

from collections.abc import Mapping

import jax

from crosscale.engine.environment import resident_bytes
from crosscale.runs.experiment import Experiment

_COMPILING = 512 << 20  # XLA for processors, for a training step: 0.35 GB with the smallest model, 0.85 with the demo's
_LOADER = 200 << 20  # a loader's process
_AHEAD = 4  # batches


def estimate_host_memory(experiment: Experiment, device: Mapping[str, int]) -> dict[str, int]:
    """Bytes that a training on processors takes of the machine in all; empty on other devices.

    "process" is what this process holds by now, "compiling" what the compiler adds, "loading" the loader's
    processes and the batches that are decoded ahead, "training" what `estimate_memory` says.

    Args:
      device: as `estimate_memory` gives it.
    """
    if experiment.mesh.devices.flat[0].platform != "cpu":
        return {}
    local = jax.local_device_count()
    return {
        "process": resident_bytes() or 0,
        "compiling": _COMPILING,
        "loading": experiment.recipe.data.workers * _LOADER + _AHEAD * device["batch"] * local,
        "training": sum(device.values()) * local,
    }
