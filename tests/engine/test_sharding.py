"""Meshes: one program on any number of devices, with the same losses, and parameters that really lie in parts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from crosscale.engine.settings import MeshSettings
from crosscale.engine.sharding import check_divides, data_mesh, make_mesh, split_parameters
from crosscale.errors import RequestError

ROOT = Path(__file__).parents[2]


def steps(*words: str) -> Any:
    """What `mesh_steps` sees on 8 devices."""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "tests.engine.mesh_steps", *words]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> Any:
    return steps("1", "2 x 4")


@pytest.fixture(scope="module")
def further() -> Any:
    return steps("1", "2", "8 data", "8 fsdp", "resumed")


def assert_as_one_device(layouts: Any, layout: str) -> None:
    one, other = layouts["1"], layouts[layout]
    assert len(set(one["losses"])) == 6
    assert one["scale"] == other["scale"] == [6, 65536]  # six finite steps in a row, at the scale of the beginning
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    assert (other["metrics"]["examples"], other["metrics"]["skipped"]) == (32 + 27 - 2, 2)
    for name, value in one["metrics"].items():
        np.testing.assert_allclose(other["metrics"][name], value, rtol=1e-5, err_msg=name)
    assert len(other["rows"]["index"]) == 32 + 27 - 2
    assert other["rows"] == one["rows"]
    assert np.shape(other["weights"]["kernel"]) == (8, 4)
    # Adam's step has the size of the learning rate, 0.01, however small the gradient: rounding grows by it.
    np.testing.assert_allclose(other["weights"]["kernel"], one["weights"]["kernel"], atol=1e-4)


def assert_split(sizes: Any, parts: int) -> None:
    split, counter = 4 * (2 * 2 * 8 + 8 * 4) // parts + 4 * (8 + 4), 4
    assert sizes["bytes"] == {"params": split, "ema_params": split, "opt_state": 2 * split + counter}
    assert sizes["declared"] == split


@pytest.mark.slow
def test_losses_metrics_and_weights_are_those_of_one_device(found: Any) -> None:
    assert_as_one_device(found["layouts"], "2 x 4")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["2", "8 data", "8 fsdp"])
def test_every_layout_is_as_one_device(further: Any, layout: str) -> None:
    assert_as_one_device(further["layouts"], layout)


@pytest.mark.slow
def test_fsdp_splits_parameters_moments_and_average(found: Any) -> None:
    assert_split(found["layouts"]["1"], 1)
    assert_split(found["layouts"]["2 x 4"], 4)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "parts"), [("2", 1), ("8 data", 1), ("8 fsdp", 8)])
def test_every_layout_splits_by_fsdp(further: Any, layout: str, parts: int) -> None:
    assert_split(further["layouts"][layout], parts)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_devices(further: Any) -> None:
    np.testing.assert_allclose(further["resumed"], further["layouts"]["1"]["losses"], rtol=1e-5)


def test_mesh_takes_what_is_left(found: Any) -> None:
    assert found["meshes"] == [[8, 1], [2, 4], [2, 4]]


def test_a_mesh_that_does_not_fit_says_what_would(found: Any) -> None:
    assert found["refusals"] == [
        "mesh: data=-1, fsdp=3: 8 devices cannot be shared so; mesh.fsdp of 1, 2, 4, 8 would do",
        "mesh: data=3, fsdp=-1: 8 devices cannot be shared so; mesh.data of 1, 2, 4, 8 would do",
        "mesh: data=2, fsdp=2 asks for 4 devices, but there are 8; mesh.data=-1 takes what is left",
    ]


@pytest.mark.parametrize(
    ("data", "fsdp", "message"), [(0, 1, "mesh.data=0"), (1, -2, "mesh.fsdp=-2"), (-1, -1, "only")]
)
def test_settings_refuse(data: int, fsdp: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        MeshSettings(data, fsdp)


def test_a_batch_that_does_not_divide_names_one_that_does() -> None:
    mesh = data_mesh()
    check_divides("train.batch_size", 12, 3, mesh)
    with pytest.raises(RequestError, match=r"train.batch_size=10 does not .*optimizer.accumulate=3; 9 would work"):
        check_divides("train.batch_size", 10, 3, mesh)


def test_rules_go_by_name_and_leave_whole_what_does_not_divide() -> None:
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "fsdp"))

    def leaf(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, np.float32)

    params = {
        "embed": {"position": leaf(1, 17, 8), "cls": leaf(1, 1, 8)},
        "out": {"kernel": leaf(16, 12), "bias": leaf(12), "scale": leaf(12)},
        "head": {"kernel": leaf(16, 10)},
        "odd": {"kernel": leaf(3, 10)},
    }
    specs = jax.tree.map(lambda place: place.spec, split_parameters({"params": params, "mu": params}, mesh))
    assert specs["mu"] == specs["params"]
    assert specs["params"] == {
        "embed": {"position": PartitionSpec(None, None, "fsdp"), "cls": PartitionSpec()},
        "out": {"kernel": PartitionSpec(None, "fsdp"), "bias": PartitionSpec(), "scale": PartitionSpec()},
        "head": {"kernel": PartitionSpec("fsdp", None)},
        "odd": {"kernel": PartitionSpec()},
    }


def test_one_device_is_a_mesh_as_well() -> None:
    assert dict(make_mesh(MeshSettings(1, 1)).shape) == {"data": 1, "fsdp": 1}
