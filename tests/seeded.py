"""Seeded random variables of any model, without compiling its initialisation."""

import numpy as np

from crosscale.pretrained import parameter_shapes
from crosscale.trees import unflatten


def seeded_variables(model, seed=0):
    """{"params": ...} with kernels near their initial size, and norms and biases away from 1 and 0."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        noise = rng.standard_normal(shape, np.float32)
        return 1 + 0.1 * noise if name.endswith("scale") else noise / max(shape[0], 25) ** 0.5

    return {"params": unflatten({n: draw(n, s) for n, s in parameter_shapes(model).items()})}
