"""Writes what every preset resolves to: each parameter's name, shape, initialiser and whether it decays.

python -m tests.golden.presets.make_goldens      # after a change that is meant; the diff shows what it does
"""

from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn

from crosscale.engine.settings import OptimizerSettings
from crosscale.models.registry import create_model, list_models
from crosscale.trees import flatten, match_first

HERE = Path(__file__).parent


def describe(name: str) -> str:
    """One line a parameter, in the order of their names."""
    model = create_model(name)
    initialisers: dict[str, str] = {}
    param = nn.Module.param

    def recorded(module, label, init, *args, **kwargs):
        initialisers["/".join((*module.path, label))] = getattr(init, "__name__", str(init))
        return param(module, label, init, *args, **kwargs)

    images = jnp.zeros((1, *model.input_size, model.in_channels))
    with mock.patch.object(nn.Module, "param", recorded):
        tree = jax.eval_shape(model.init, jax.random.key(0), images)
    rules = [(pattern, "no decay") for pattern in OptimizerSettings().no_decay]
    lines = [
        f"{path} {'x'.join(map(str, leaf.shape))} {initialisers[path]} {match_first(path, rules, 'decay')}"
        for path, leaf in sorted(flatten(tree["params"]).items())
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for preset in list_models():
        (HERE / f"{preset}.txt").write_text(describe(preset))
        print(preset)
