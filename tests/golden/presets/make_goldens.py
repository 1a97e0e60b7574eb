"""Writes what every classifier's preset resolves to: each parameter's name, shape, initialiser and whether it decays.

python -m tests.golden.presets.make_goldens      # after a change that is meant; the diff shows what it does
"""

from pathlib import Path
from unittest import mock

import jax
from flax import linen as nn

from crosscale.engine.settings import OptimizerSettings
from crosscale.measure import count_costs
from crosscale.models.registry import create_model, get_preset, input_spec, list_models
from crosscale.models.shapes import variable_shapes
from crosscale.trees import flatten, match_first

HERE = Path(__file__).parent
CLASSIFIERS = [name for name in list_models() if get_preset(name).published.top1 is not None]


def describe(name: str) -> str:
    """One line a parameter, in the order of their names."""
    model = create_model(name)
    spec = input_spec(name, model)
    initialisers: dict[str, str] = {}
    param = nn.Module.param

    def recorded(module, label, init, *args, **kwargs):
        initialisers["/".join((*module.path, label))] = getattr(init, "__name__", str(init))
        return param(module, label, init, *args, **kwargs)

    with mock.patch.object(nn.Module, "param", recorded):
        count_costs(model, spec)  # the traces that other tests of the preset need as well
        tree = variable_shapes(model, spec.size, spec.channels)
        if not initialisers:  # counted before
            jax.eval_shape(model.apply, tree, jax.ShapeDtypeStruct((1, *spec.size, spec.channels), "float32"))
    rules = [(pattern, "no decay") for pattern in OptimizerSettings().no_decay]
    lines = [
        f"{path} {'x'.join(map(str, leaf.shape))} {initialisers[path]} {match_first(path, rules, 'decay')}"
        for path, leaf in sorted(flatten(tree["params"]).items())
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for preset in CLASSIFIERS:
        (HERE / f"{preset}.txt").write_text(describe(preset))
        print(preset)
