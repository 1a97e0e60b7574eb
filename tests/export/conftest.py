"""Predictors to export: a CrossViT for grey digits, and a CrossFormer for colour pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.contracts import InputSpec
from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.predictor import Predictor


@pytest.fixture(scope="session")
def digits(tiny_run):
    return Predictor.from_run(tiny_run)


@pytest.fixture(scope="session")
def crossformer():
    model = CrossFormer(
        img_size=64,
        embed_dim=16,
        depths=(1, 2, 1, 1),
        num_heads=(1, 2, 4, 8),
        group_size=4,
        interval=(4, 2, 1, 1),
        num_classes=3,
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    return Predictor(model, variables, InputSpec(size=(64, 64)), ["cat", "cup", "Gal\u00e1xia"])
