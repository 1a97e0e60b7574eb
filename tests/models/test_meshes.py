"""Models on a mesh of a user's own: gradients inside `jax.shard_map`, and meshes that the models do not take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from crosscale.errors import RequestError
from crosscale.models.registry import create_model

FORMER = {
    "img_size": 64,
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 2, 2),
    "group_size": 4,
    "interval": (2, 2, 1, 1),
}
MODELS = {
    "crossvit": {
        "img_size": (48, 32),
        "patch_size": (12, 16),
        "embed_dim": (8, 16),
        "depth": ((1, 1, 1),),
        "num_heads": (2, 2),
    },
    "semantic_fpn_crossformer": {**FORMER, "neck_channels": 8, "head_channels": 8, "norm": "group"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_gradients_inside_shard_map_are_those_of_one_device(name):
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.test_meshes", name],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 2
    assert found["largest"] > 0
    assert found["apart"] < 1e-6 * found["largest"]


def test_a_mesh_of_explicit_axes_is_refused_in_a_line():
    model = create_model("crossvit", num_classes=3, **MODELS["crossvit"])
    images = jnp.ones((2, 48, 48, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
        placed = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=NamedSharding(mesh, P("data")))
        if kind == AxisType.Auto:
            jax.eval_shape(model.apply, variables, placed)
            continue
        with pytest.raises(RequestError, match="whose axes are explicit; make it with") as caught:
            jax.eval_shape(model.apply, variables, placed)
        assert "\n" not in str(caught.value)


def main(name):
    """Prints how far the gradient over two devices is from that of one."""
    model = create_model(name, num_classes=3, **MODELS[name])
    side = 48 if name == "crossvit" else 64
    images = jax.random.normal(jax.random.key(1), (4, side, side, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def gradient(variables, images):
        return jax.grad(lambda variables: jnp.square(model.apply(variables, images)).sum())(variables)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.shard_map(gradient, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    found, expected = (jax.device_get(jax.jit(way)(variables, images)) for way in (spread, gradient))
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), found, expected)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    print(json.dumps({"devices": jax.device_count(), "largest": largest, "apart": max(jax.tree.leaves(apart))}))


if __name__ == "__main__":
    main(sys.argv[1])
