"""Seeded random variables of any model, without compiling its initialisation, and runs that have them."""

import numpy as np

from crosscale.artifact import WEIGHTS, Artifact, write_artifact
from crosscale.models.registry import create_model
from crosscale.pretrained import parameter_shapes, save_weights
from crosscale.pretrained.naming import variables_of


def seeded_variables(model, seed=0):
    """{"params": ...} with kernels near their initial size, and norms and biases away from 1 and 0; statistics too."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        noise = rng.standard_normal(shape, np.float32)
        if name.endswith("/var"):
            return 1 + 0.5 * np.abs(noise)
        return 1 + 0.1 * noise if name.endswith("scale") else noise / max(shape[0], 25) ** 0.5

    return variables_of({n: draw(n, s) for n, s in parameter_shapes(model).items()}, model)


def seeded_run(folder, family, options, labels, **told):
    """The folder as that of a run whose best weights are seeded ones; `told` are further fields of the artifact."""
    best = folder / "best"
    best.mkdir()
    model = create_model(family, **options, num_classes=len(labels))
    save_weights(best / WEIGHTS, seeded_variables(model), model)
    write_artifact(best, Artifact(model=family, options=options, labels=labels, num_outputs=len(labels), **told))
    return folder
