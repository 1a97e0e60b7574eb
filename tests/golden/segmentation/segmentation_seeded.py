"""The narrow models of the golden files beside this one, and the reference's weights, which follow from their names."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crosscale.models.registry import create_model
from crosscale.pretrained import from_variables, to_variables
from crosscale.pretrained.naming import parameter_shapes, variables_of

HERE = Path(__file__).parent
BACKBONE = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "num_classes": 6}
MODELS = {
    "semfpn": ("semantic_fpn_crossformer", BACKBONE | {"neck_channels": 16, "head_channels": 12}),
    "upernet": ("upernet_crossformer", BACKBONE | {"head_channels": 16, "aux_channels": 12}),
}
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def read(name: str) -> dict[str, np.ndarray]:
    """A golden file's arrays."""
    with np.load(HERE / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def array(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 values by name; numpy promises that RandomState's streams never change."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)


def weight(name: str, shape: Sequence[int]) -> np.ndarray:
    """A tensor of the reference by its own name."""
    if name.endswith("num_batches_tracked"):
        return np.full(shape, 3)
    values = array(name, shape)
    if name.endswith("running_var"):
        return 1 + np.float32(0.5) * np.abs(values)
    if len(shape) > 1:
        return values / np.float32(np.sqrt(np.prod(shape[1:])))
    return np.float32(1 if name.endswith("weight") else 0) + np.float32(0.1) * values


def weights(
    shapes: Mapping[str, Sequence[int]], given: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Every tensor by the reference's name: one of `given`, else by the rule."""
    found = {name: weight(name, shape) for name, shape in shapes.items()}
    return {**found, **(given or {})}


def reference_weights(model) -> dict[str, np.ndarray]:
    """All of a model's tensors under mmsegmentation's names, as the golden files' models had them."""
    zeros = variables_of({name: np.zeros(shape) for name, shape in parameter_shapes(model).items()}, model)
    shapes = {name: value.shape for name, value in from_variables(zeros, model, "mmseg").items()}
    file = "semfpn" if any(name.startswith("neck.") for name in shapes) else "upernet"
    given = {
        key.removeprefix("weights/"): value
        for key, value in read(f"{file}_224").items()
        if key.startswith("weights/") and key.removeprefix("weights/") in shapes
    }
    return weights(shapes, given)


def narrow(name: str, **changes):
    """A golden file's model and its variables."""
    family, options = MODELS[name]
    model = create_model(family, **options | changes)
    return model, to_variables(reference_weights(model), model, "mmseg", "the reference")


def normalised(pictures: np.ndarray) -> np.ndarray:
    """uint8 pictures as the models take them."""
    return ((pictures.astype(np.float64) - MEAN) / STD).astype(np.float32)


def deviation(ours, theirs: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude."""
    ours = np.asarray(ours, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
