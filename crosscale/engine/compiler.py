"""What XLA is told about a training step beyond its defaults."""

import os

from flax import linen as nn
from jax.sharding import Mesh

CompilerOptions = dict[str, str | bool | int | float]

# On an NVIDIA GPU a training step of crossvit_9_240 was 3 to 5 % faster with either (docs/performance.md): cuBLAS's
# products rather than generated ones, and cuDNN's layer normalisation.
NVIDIA: CompilerOptions = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_enable_cudnn_layer_norm": True}


def compiler_options(model: nn.Module, mesh: Mesh) -> CompilerOptions | None:
    """Options for the compilation of the model's training step; None where the defaults do.

    An option that the environment variable XLA_FLAGS names is left to it: with
    `XLA_FLAGS=--xla_gpu_enable_triton_gemm=true` that one is as XLA has it.
    """
    device = mesh.devices.flat[0]
    options: CompilerOptions = {}
    if device.platform == "cpu" and getattr(model, "remat", False):
        # On CPU XLA removes the barriers between a value and its recomputation, and then finds both to be the same
        # and keeps the first: without this nothing is saved there.
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    elif device.platform == "gpu" and device.device_kind.startswith("NVIDIA"):
        options = NVIDIA
    named = {flag.lstrip("-").partition("=")[0] for flag in os.environ.get("XLA_FLAGS", "").split()}
    return {name: value for name, value in options.items() if name not in named} or None
