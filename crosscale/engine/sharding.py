"""How arrays lie on the devices of all processes: batches in rows, parameters in parts, all else whole on each."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from crosscale.cluster.hosts import wait_for_all
from crosscale.contracts import Array, Batch
from crosscale.engine.settings import MeshSettings
from crosscale.errors import RequestError
from crosscale.trees import match_first

DATA_AXIS, FSDP_AXIS = "data", "fsdp"

# (pattern of the whole name, axes to split over fsdp: the first whose size divides). The state's names are such as
# "params/head/kernel" and "opt_state/0/mu/head/kernel", so that the moments and the average follow their parameter.
# What no row names and what does not divide is whole on every device: biases and scales are not worth a message.
FSDP_RULES: Sequence[tuple[str, tuple[int, ...]]] = (
    (r".*/kernel", (-1, -2)),  # outputs, else inputs
    (r".*/position", (-1,)),  # channels
)


def make_mesh(settings: MeshSettings) -> Mesh:
    """All devices of all processes, in rows of `fsdp` and columns of `data`.

    The devices of a process follow one another, so that it holds consecutive rows of each batch.

    Raises:
      RequestError: the two numbers do not use all devices, or processes have different numbers of devices.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(devices) != jax.local_device_count() * jax.process_count():
        raise RequestError(
            f"{len(devices)} devices of {jax.process_count()} processes, of which one has {jax.local_device_count()}: "
            "every process needs the same number of devices"
        )
    data, fsdp = settings.data, settings.fsdp
    given = f"mesh: data={data}, fsdp={fsdp}"
    known = fsdp if data == -1 else data
    if -1 in (data, fsdp):
        if len(devices) % known:
            sizes = ", ".join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)
            name = FSDP_AXIS if data == -1 else DATA_AXIS
            raise RequestError(f"{given}: {len(devices)} devices cannot be shared so; mesh.{name} of {sizes} would do")
        left = len(devices) // known
        data, fsdp = (left, fsdp) if data == -1 else (data, left)
    if data * fsdp != len(devices):
        raise RequestError(
            f"{given} asks for {data * fsdp} devices, but there are {len(devices)}; mesh.data=-1 takes what is left"
        )
    shape = np.array(devices, dtype=object).reshape(data, fsdp)
    return Mesh(shape, (DATA_AXIS, FSDP_AXIS), axis_types=(AxisType.Auto, AxisType.Auto))


def data_mesh() -> Mesh:
    """All devices of all processes, each with the whole parameters."""
    return make_mesh(MeshSettings())


def local_mesh() -> Mesh:
    """The devices of this process alone, each with the whole parameters."""
    shape = np.array(jax.local_devices(), dtype=object).reshape(-1, 1)
    return Mesh(shape, (DATA_AXIS, FSDP_AXIS), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA_AXIS, FSDP_AXIS)))


def split_parameters(tree: Any, mesh: Mesh) -> Any:
    """A tree of shardings by `FSDP_RULES`, for parameters or for anything that holds trees of their names."""

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        axes = match_first(parameter_path(path), FSDP_RULES, ())
        return NamedSharding(mesh, _split(leaf.shape, axes, mesh.shape[FSDP_AXIS]))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def parameter_path(path: Any) -> str:
    """A key path of `jax.tree_util` as "/a/b/c"."""
    return "/" + jax.tree_util.keystr(path, simple=True, separator="/")


def _split(shape: Sequence[int], axes: Sequence[int], parts: int) -> PartitionSpec:
    for axis in axes:
        if parts > 1 and len(shape) >= -axis and shape[axis] % parts == 0:
            spec: list[str | None] = [None] * len(shape)
            spec[axis] = FSDP_AXIS
            return PartitionSpec(*spec)
    return PartitionSpec()


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """Bytes that a tree of arrays, or of their shapes, takes on each device."""
    leaves, places = jax.tree.leaves(tree), jax.tree.leaves(shardings)
    sizes = (
        math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in zip(leaves, places, strict=True)
    )
    return sum(sizes)


def spans_processes(mesh: Mesh) -> bool:
    """Whether other processes hold some of the mesh's devices, so that they have to take part in what runs on it."""
    return any(device.process_index != jax.process_index() for device in mesh.devices.flat)


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, Array]:
    """This process's rows of a batch -> its arrays and "weight" of the whole batch, an equal share on each device."""
    place, processes = split_batch(mesh), jax.process_count() if spans_processes(mesh) else 1
    arrays = {**batch.arrays, "weight": batch.weight}
    return {
        name: jax.make_array_from_process_local_data(place, rows, (len(rows) * processes, *rows.shape[1:]))
        for name, rows in arrays.items()
    }


def own_rows(tree: Any, mesh: Mesh) -> Any:
    """Arrays split as `split_batch` does -> this process's rows, on the host."""
    if spans_processes(mesh):
        tree = multihost_utils.global_array_to_host_local_array(tree, mesh, split_batch(mesh).spec)
    return jax.device_get(tree)


def put_whole(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process -> arrays laid out as told."""
    if not all(place.is_fully_addressable for place in jax.tree.leaves(shardings)):
        wait_for_all("placed")  # JAX compares the processes' arrays, which one may have read more slowly than another
    return jax.device_put(jax.device_get(tree), shardings)


def to_host(tree: Any) -> Any:
    """Whole NumPy arrays, gathered one after another; for host arrays every process's rows, joined.

    Every process has to call it.
    """
    wait_for_all("gathered")
    return multihost_utils.process_allgather(tree, tiled=True)


def check_divides(key: str, batch_size: int, parts: int, mesh: Mesh) -> None:
    """Raises RequestError unless every device gets an equal share of each of a batch's parts."""
    devices = mesh.size
    if batch_size % (devices * parts):
        step = devices * parts
        near = max(step, round(batch_size / step) * step)
        of = f"{devices} devices" + (f" and optimizer.accumulate={parts}" if parts > 1 else "")
        raise RequestError(f"{key}={batch_size} does not divide evenly over {of}; {near} would work")
