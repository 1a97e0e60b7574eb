import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.models.crossformer.group_sizes import group_sizes
from crosscale.models.crossformer.presets import PRESETS
from crosscale.models.crossformer.weights import OFFICIAL
from crosscale.trees import flatten
from crosscale.weights.rules import to_ours, to_theirs

GROUP_SIZES = json.loads((Path(__file__).parents[1] / "golden" / "crossformer" / "group_sizes.json").read_text())


def shapes_of(model):
    images = jnp.zeros((1, 64, 64, model.in_channels))
    return flatten(jax.eval_shape(model.init, jax.random.key(0), images)["params"])


def test_the_presets_are_the_eight_published_models():
    assert [p.name for p in PRESETS] == [
        *(f"crossformer_{v}_224" for v in ("tiny", "small", "base", "large")),
        *(f"crossformer_pp_{v}_224" for v in ("small", "base", "large", "huge")),
    ]


@pytest.mark.parametrize("kind", ["constant", "linear", "linear_div", "alter", "7_14"])
def test_group_sizes_equal_the_released_rules(kind):
    rows = [row for row in GROUP_SIZES if row["type"] == kind]
    assert len(rows) == 24
    for row in rows:
        got = group_sizes(kind, tuple(row["given"]), tuple(row["depths"]), row["rows"])
        assert [list(stage) for stage in got] == row["result"]


@pytest.mark.slow
def test_cooling_layers_stand_after_every_third_block_but_the_last():
    names = shapes_of(CrossFormer(depths=(6, 2, 18, 3), use_acl=True))
    cooled = sorted({tuple(n.split("/")[1:3]) for n in names if "cooling" in n})
    assert cooled == sorted((f"stage_{s}", f"block_{i}") for s, i in [(0, 2), (2, 2), (2, 5), (2, 8), (2, 11), (2, 14)])


def test_one_number_stands_for_all_stages_and_lists_for_tuples():
    given = CrossFormer(group_size=7, interval=[8, 4, 2, 1], depths=[2, 2, 6, 2], merge_size=[[2, 4]] * 3)
    assert given.config == CrossFormer().config
    assert CrossFormer(img_size=[128, 96]).input_size == (128, 96)
    assert hash(given.config) == hash(CrossFormer().config)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"num_heads": (3, 6, 12, 7)}, "stage 3: num_heads=7 does not divide the width 768"),
        ({"num_heads": (3, 6, 12)}, r"num_heads=\[3, 6, 12\] has 3 entries, but there are 4"),
        ({"depths": ()}, "depths is empty"),
        ({"depths": (2, 0, 6, 2)}, "depths.*1 or more"),
        ({"interval": 0}, "interval.*1 or more"),
        ({"group_size": (7, 7, 7, 7.5)}, "7.5 is not int"),
        ({"group_type": "liner"}, "did you mean 'linear'"),
        ({"group_type": "7_14", "group_size": 1}, "halves the third"),
        ({"group_type": "alter", "img_size": (32, 99), "patch_size": (8, 16)}, "img_size 40 or more"),
        ({"merge_size": ((2, 4),) * 2}, "4 stages .depths. are joined by 3"),
        ({"merge_size": ((2, 3), (2, 4), (2, 4))}, r"merge_size=\[2, 3\]: 3 must exceed the stride 2"),
        ({"patch_size": (4, 9)}, r"patch_size=\[4, 9\]: 9 must exceed the stride 4"),
        ({"patch_size": ()}, "patch_size is empty"),
        ({"img_size": 31}, r"img_size 31x31 is smaller than the largest patch .* give 32x32 or more"),
        ({"img_size": (224, 224, 3)}, "neither a side length in pixels nor"),
        ({"embed_dim": 8}, "give 16 or more"),
        ({"mlp_ratio": 0}, "mlp_ratio=0.0 must be above 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0 is not in 0 <= rate < 1"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"num_classes": -1}, "num_classes=-1"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(fields, reason):
    with pytest.raises(RequestError, match=reason) as error:
        CrossFormer(**fields)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def weights():
    model = CrossFormer(embed_dim=16, depths=(1, 1, 4, 1), num_heads=1, use_acl=True, num_classes=3)
    generator = np.random.default_rng(0)
    return {k: generator.standard_normal(v.shape, np.float32) for k, v in shapes_of(model).items()}


def test_official_names_go_both_ways_bit_for_bit(weights):
    theirs = to_theirs(OFFICIAL, weights)
    assert len(theirs) == len(weights)
    assert theirs["patch_embed.projs.3.weight"].shape == (2, 3, 32, 32)
    assert theirs["layers.2.blocks.2.ex_conv.weight"].shape == (64, 1, 3, 3)
    assert theirs["layers.0.blocks.0.attn.pos.pos3.2.weight"].shape == (1, 1)
    back = to_ours(OFFICIAL, theirs)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)


def test_saved_index_buffers_are_dropped_and_anything_else_is_refused(weights):
    theirs = to_theirs(OFFICIAL, weights)
    buffers = {
        "layers.0.blocks.0.attn.biases": np.zeros((169, 2), np.float32),
        "layers.2.blocks.3.attn.relative_position_index": np.zeros((49, 49), np.int64),
    }
    assert to_ours(OFFICIAL, {**theirs, **buffers}).keys() == weights.keys()
    with pytest.raises(RequestError, match=r"absolute_pos_embed"):
        to_ours(OFFICIAL, {**theirs, "absolute_pos_embed": np.zeros((1, 4, 4), np.float32)})
