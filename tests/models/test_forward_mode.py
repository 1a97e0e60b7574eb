"""Forward mode, and what is built of it, through every family: with derived gradients, against reverse mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers.kernels import use_kernels
from crosscale.models.registry import create_model
from tests.seeded import seeded_variables

CROSSVIT = {"depth": ((1, 1, 1),), "num_heads": (2, 2), "embed_dim": (8, 16), "mlp_ratio": 1.0, "patch_size": (8, 16)}
CROSSFORMER = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "group_size": (2, 2), "interval": (2, 1)}
MODELS = {
    "crossvit": CROSSVIT,
    "crossformer": CROSSFORMER | {"patch_size": (4, 8), "merge_size": ((2, 4),)},
    "deit_tiny_224": {"embed_dim": (8,), "depth": ((1, 0),), "num_heads": (2,), "mlp_ratio": 1.0},
}
# Of two branches or two kinds of groups: half a minute to compile.
CASES = [pytest.param(name, marks=() if "deit" in name else pytest.mark.slow) for name in MODELS]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_forward_mode_agrees_with_reverse_mode(name):
    model = create_model(name, img_size=32, num_classes=3, **MODELS[name])
    variables = seeded_variables(model)
    images, step = (jax.random.normal(jax.random.key(seed), (1, 32, 32, 3)) for seed in (0, 1))

    def loss(images):
        return (model.apply(variables, images) ** 2).sum()

    @jax.jit
    def reverse(images, step):
        """As a processor has it by default."""
        return jax.grad(loss)(images), jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), step))(images)

    @jax.jit
    def forward(images, step):
        with use_kernels(gradients="derived"):
            change = jax.jvp(loss, (images,), (step,))[1]
            product = jax.jvp(jax.grad(loss), (images,), (step,))[1]
            corner = jax.hessian(lambda part: loss(images.at[0, 5, 5].set(part)))(images[0, 5, 5])
            return change, jax.linearize(loss, images)[1](step), product, corner

    gradient, again = reverse(images, step)
    change, linear, product, corner = forward(images, step)
    expected = float(jnp.vdot(gradient, step))
    np.testing.assert_allclose([change, linear], [expected] * 2, rtol=2e-4)
    np.testing.assert_allclose(product, again, atol=1e-4 * float(jnp.abs(again).max()))
    assert corner.shape == (3, 3)
    np.testing.assert_allclose(corner, corner.T, atol=1e-5 * float(jnp.abs(corner).max()))
