"""What the compiler has to be told so that rematerialisation saves memory."""

from flax import linen as nn
from jax.sharding import Mesh


def compiler_options(model: nn.Module, mesh: Mesh) -> dict[str, str | bool | int | float] | None:
    """Options for the compilation of the model's training step; None where the defaults do.

    On CPU XLA removes the barriers between a value and its recomputation, and then finds both to be the same and
    keeps the first: without this nothing is saved there.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if on_cpu and getattr(model, "remat", False) else None
