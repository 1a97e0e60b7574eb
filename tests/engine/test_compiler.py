"""What the compiler is told, and what that does: rematerialised blocks have the same parameters, outputs and gradients,
in less memory by the compiler's own count."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.engine.compiler import compiler_options
from crosscale.engine.forward import forward
from crosscale.engine.sharding import data_mesh
from crosscale.models.registry import create_model
from crosscale.recipe import load
from crosscale.runs.device_memory import estimate_memory
from crosscale.runs.experiment import build
from crosscale.trees import flatten
from tests.seeded import seeded_variables

MODELS: dict[str, dict[str, Any]] = {
    "crossvit": {
        "img_size": 32,
        "patch_size": (4, 8),
        "embed_dim": (16, 32),
        "depth": ((1, 3, 1),),
        "num_heads": (2, 2),
        "mlp_ratio": 4.0,
    },
    "crossformer": {
        "img_size": 32,
        "patch_size": (4, 8),
        "embed_dim": 16,
        "depths": (3, 1),
        "num_heads": (2, 2),
        "group_size": (4, 4),
        "interval": (2, 1),
        "merge_size": ((2, 4),),
    },
}
RANDOM = {"drop_rate": 0.1, "drop_path_rate": 0.2, "num_classes": 5}


def gradient(family: str, remat: bool) -> tuple[Any, Any]:
    """(compiled gradient of (params, images, key), params)."""
    model = create_model(family, remat=remat, **RANDOM, **MODELS[family])
    params = seeded_variables(model)["params"]

    def loss(params: Any, images: Any, key: Any) -> Any:
        return (forward(model, {"params": params}, images, None, train=True, rng=key) ** 2).sum()

    step = jax.jit(jax.value_and_grad(loss), compiler_options=compiler_options(model, data_mesh()))
    return step.lower(params, jnp.zeros((4, 32, 32, 3)), jax.random.key(0)).compile(), params


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_the_same_gradient_in_less_memory(family: str) -> None:
    plain, params = gradient(family, remat=False)
    remat, same = gradient(family, remat=True)
    assert flatten(params).keys() == flatten(same).keys()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    key = jax.random.key(3)  # dropout and stochastic depth fall the same way
    for a, b in zip(
        jax.tree.leaves(plain(params, images, key)), jax.tree.leaves(remat(params, images, key)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    used = [program.memory_analysis().temp_size_in_bytes for program in (plain, remat)]
    assert used[1] < 0.75 * used[0], used


@pytest.mark.slow
def test_the_recipe_turns_it_on_and_the_estimate_follows() -> None:
    plain, remat = (build(load("smoke", {"train.remat": value})) for value in ("none", "blocks"))
    assert (plain.model.remat, remat.model.remat) == (False, True)
    assert "remat" not in remat.options  # what best/config.json keeps: the weights do not need it
    assert estimate_memory(remat)["activations"] < 0.75 * estimate_memory(plain)["activations"]
    assert compiler_options(plain.model, plain.mesh) is None


def test_a_gpu_s_options_give_way_to_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")
    mesh = SimpleNamespace(devices=np.array([card], dtype=object))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    names = {"xla_gpu_enable_triton_gemm", "xla_gpu_enable_cudnn_layer_norm"}
    assert set(compiler_options(None, mesh) or {}) == names  # type: ignore[arg-type]
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true --xla_gpu_autotune_level=2")
    assert compiler_options(None, mesh) == {"xla_gpu_enable_cudnn_layer_norm": True}  # type: ignore[arg-type]
    card.device_kind = "AMD Instinct MI300X"
    assert compiler_options(None, mesh) is None  # type: ignore[arg-type]
