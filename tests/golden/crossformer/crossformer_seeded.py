"""Weights and images that follow from a name and a shape alone, so that no golden file has to carry them."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def array(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 values; numpy promises that RandomState's streams never change."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Weights by the official names: fan-in scaled kernels, norms near one, biases that are not zero."""
    return {name: _weight(name, tuple(shape)) for name, shape in shapes.items()}


def images(batch: int, channels: int, size: Sequence[int]) -> np.ndarray:
    """(batch, *size, channels) float32."""
    return array("images", (batch, channels, *size)).transpose(0, 2, 3, 1)


def cotangent(shape: Sequence[int]) -> np.ndarray:
    """The fixed direction along which a gradient test differentiates an output."""
    return array("cotangent", shape)


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = array(name, shape)
    if len(shape) > 1:
        return values / np.float32(np.sqrt(np.prod(shape[1:])))
    return np.float32(1 if name.endswith("weight") else 0) + np.float32(0.1) * values


def read(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """A golden file beside this one: what describes it, and its arrays."""
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude."""
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())
