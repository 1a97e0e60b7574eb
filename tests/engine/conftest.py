"""A small real model and a small real batch for the engine's tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from crosscale.contracts import InputSpec


class TinyModel(nn.Module):
    """One convolution, dropout, one linear layer: has kernels, biases and randomness."""

    num_classes: int = 4
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        x = nn.gelu(nn.Conv(8, (2, 2), strides=2, name="conv")(images)).mean((1, 2))
        x = nn.Dropout(self.drop_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    return InputSpec(size=(8, 8), channels=1, mean=(0.4,), std=(0.3,))


@pytest.fixture(scope="session")
def make_tiny() -> Any:
    """Builds (model, params)."""

    def make(drop_rate: float = 0.0) -> tuple[TinyModel, Any]:
        model = TinyModel(drop_rate=drop_rate)
        return model, model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]

    return make


@pytest.fixture(scope="session")
def device_batch() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 4, 16, dtype=np.int32)),
        "weight": jnp.ones(16, jnp.float32),
    }
