"""What gradients that are written out need inside `jax.shard_map`."""

from typing import Any

import jax
from jax import lax

from crosscale.contracts import Array


def varying_alike(*arrays: Array | None) -> Any:
    """The arrays, marked as varying over every mesh axis that one of them varies over.

    Inside `jax.shard_map` a device has its own images and the same parameters as all. JAX then adds a parameter's
    gradient up over the devices, but only knows to do so for operations of its own: a gradient that is written out
    would leave it to one device. Marked before, the mark's own gradient is that sum. Elsewhere nothing changes.
    """
    axes = [None if array is None else _axes(array) for array in arrays]
    union = frozenset[Any]().union(*(own for own in axes if own))
    return tuple(
        array if own is None or own == union else lax.pcast(array, tuple(sorted(union - own)), to="varying")
        for array, own in zip(arrays, axes, strict=True)
    )


def _axes(array: Array) -> frozenset[Any]:
    """The mesh axes over which an array varies; JAX's releases call it `vma` or keep it in `manual_axis_type`."""
    kind = jax.typeof(array)
    told = getattr(kind, "manual_axis_type", None)
    found: frozenset[Any] = getattr(kind, "vma", frozenset()) if told is None else told.varying
    return found
