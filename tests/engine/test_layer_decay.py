"""Layer-wise learning-rate decay: one factor per depth, 1 at the head, falling towards the input."""

import jax
import jax.numpy as jnp
import pytest

from crosscale.engine.layer_decay import counted_layers, layer_scales
from crosscale.engine.optimizer import make_optimizer
from crosscale.engine.settings import OptimizerSettings
from crosscale.errors import RequestError
from crosscale.models.registry import create_model
from crosscale.pretrained import parameter_shapes
from crosscale.trees import flatten, unflatten


def test_crossvit_layers_in_order():
    model = create_model("crossvit_9_240")
    scales = layer_scales(parameter_shapes(model), 0.5, model.layer_of)
    stages = "backbone/stage_{}"
    order = [
        "backbone/embed_0/position",
        *(
            f"{stages.format(s)}/{part}"
            for s in range(3)
            for part in (
                "branch_1/block_0/norm1/scale",
                "branch_1/block_1/norm1/scale",
                "branch_1/block_2/norm1/scale",
                "fusion_0/block_0/norm/scale",
            )
        ),
        "backbone/norm_0/scale",
    ]
    assert [scales[name] for name in order] == [0.5 ** (13 - i) for i in range(14)]
    assert scales["head/branch_1/kernel"] == 1
    assert scales[f"{stages.format(1)}/branch_0/block_0/mlp/expand/kernel"] == scales[order[5]]
    assert set(scales) == set(parameter_shapes(create_model("crossvit_9_240")))


def test_other_names():
    names = [
        "backbone/embed/scale_0/kernel",
        "backbone/stage_0/block_1/mlp/expand/kernel",
        "backbone/merge_norm_0/scale",
        "backbone/stage_1/block_0/attention/qkv/kernel",
        "backbone/norm/scale",
    ]
    scales = layer_scales(names, 0.5, create_model("crossformer").layer_of)
    assert [scales[name] for name in names] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        (
            "crossvit_9_240",  # three stages
            {
                "backbone/embed_1/position": 0.5**4,
                "backbone/stage_0/branch_1/block_2/norm1/scale": 0.5**3,
                "backbone/stage_0/fusion_0/block_0/norm/scale": 0.5**3,
                "backbone/stage_2/branch_1/block_0/norm1/scale": 0.5,
                "backbone/norm_0/scale": 0.5,
                "head/branch_1/kernel": 1,
            },
        ),
        (
            "deit_tiny_224",  # twelve blocks
            {
                "backbone/embed_0/cls": 0.5**13,
                "backbone/stage_0/branch_0/block_0/norm1/scale": 0.5**12,
                "backbone/stage_0/branch_0/block_11/norm1/scale": 0.5,
                "backbone/norm_0/scale": 0.5,
                "head/branch_0/kernel": 1,
            },
        ),
        (
            "crossformer_tiny_224",  # sixteen blocks and three mergings
            {
                "backbone/embed/scale_0/kernel": 0.5**20,
                "backbone/embed_norm/scale": 0.5**20,
                "backbone/stage_3/block_5/norm1/scale": 0.5,
                "backbone/norm/scale": 0.5,
                "head/branch_0/kernel": 1,
            },
        ),
    ],
)
def test_layers_as_timm_counts_them(name, factors):
    model = create_model(name)
    scales = layer_scales(parameter_shapes(model), 0.5, counted_layers(model, "timm"))
    assert {part: scales[part] for part in factors} == factors


def test_updates_are_scaled():
    names = ["backbone/embed/kernel", "backbone/stage_0/block_0/kernel", "head/kernel"]
    params = unflatten({name: jnp.ones(2) for name in names})
    settings = OptimizerSettings(name="sgd", momentum=0.0, weight_decay=0.0, layer_decay=0.5)
    optimizer = make_optimizer(settings, params, create_model("crossformer"))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    assert [float(flatten(updates)[name][0]) for name in names] == [0.25, 0.5, 1.0]
    with pytest.raises(RequestError, match="does not say what its layers are"):
        make_optimizer(settings, params)
    with pytest.raises(RequestError, match="layer_decay"):
        OptimizerSettings(layer_decay=0)
