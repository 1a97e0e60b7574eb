"""How arrays lie on the devices: batches split over the data axis, everything else whole on each."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from crosscale.contracts import Array, Batch
from crosscale.errors import RequestError

DATA_AXIS = "data"


def data_mesh() -> Mesh:
    """All devices of this process in one row."""
    return jax.make_mesh((jax.local_device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))  # type: ignore[no-untyped-call]


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, Array]:
    """The batch's image, label and weight on the devices, each with an equal share of the examples."""
    arrays = {"image": batch.image, "label": batch.label, "weight": batch.weight}
    placed: dict[str, Array] = jax.device_put(arrays, split_batch(mesh))
    return placed


def check_divides(key: str, batch_size: int, parts: int, mesh: Mesh) -> None:
    """Raises RequestError unless every device gets an equal share of each of a batch's parts."""
    devices = mesh.size
    if batch_size % (devices * parts):
        step = devices * parts
        near = max(step, round(batch_size / step) * step)
        of = f"{devices} devices" + (f" and optimizer.accumulate={parts}" if parts > 1 else "")
        raise RequestError(f"{key}={batch_size} does not divide evenly over {of}; {near} would work")
