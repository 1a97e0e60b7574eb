"""The attention that is shown is the attention that was computed, in the right place of the picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import crosscale.layers.attention
import crosscale.layers.groups
from crosscale import explain
from crosscale.compat.vit_pytorch import CrossViT as CompatCrossViT
from crosscale.contracts import InputSpec
from crosscale.engine.forward import forward
from crosscale.errors import RequestError
from crosscale.layers.attention import ATTENTION, ClassAttention, SelfAttention
from crosscale.layers.groups import GroupAttention, group_map, merge, partition
from crosscale.models.crossformer.backbone import CrossFormer
from crosscale.models.crossvit.backbone import CrossViT
from tests.seeded import seeded_variables
from tests.variants import joint_variants

SPEC = InputSpec(size=(48, 48))


def crossvit(**options):
    defaults = {
        "img_size": [48, 40],
        "patch_size": [12, 8],
        "embed_dim": [16, 24],
        "depth": [[1, 1, 1], [2, 1, 1]],
        "num_heads": [2, 4],
        "mlp_ratio": 1.0,
        "num_classes": 5,
    }
    return CrossViT(**{**defaults, **options})


def crossformer(**options):
    defaults = {
        "img_size": 96,
        "embed_dim": 32,
        "depths": (2, 1),
        "num_heads": (2, 4),
        "group_size": 3,
        "interval": (4, 2),
        "merge_size": ((2, 4),),
        "mlp_ratio": 1.0,
        "num_classes": 5,
    }
    return CrossFormer(**{**defaults, **options})


def pictures(size, count=2):
    return np.random.default_rng(3).integers(0, 256, (count, *size, 3)).astype(np.uint8)


def started(model, size, count=2):
    """Images, and weights large enough that no attention is even."""
    images = pictures(size, count)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), seeded_variables(model))
    return params, images


def jitted(model, variables, images, **options):
    return jax.jit(lambda v, x: forward(model, v, x, SPEC, **options))(variables, images)


def split(x, heads):
    return x.reshape(*x.shape[:-1], heads, -1)


def captured(layer, x):
    params = layer.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: p + 0.2 * jax.random.normal(jax.random.key(2), p.shape), params)
    y, state = layer.apply({"params": params}, x, mutable=[ATTENTION])
    # asked for, the weights are computed whole; otherwise they never exist
    np.testing.assert_allclose(y, layer.apply({"params": params}, x), atol=1e-6 * float(jnp.abs(y).max()))
    weights = np.asarray(state[ATTENTION]["weights"][0])
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    return params, weights, y


def test_self_attention_is_what_its_weights_say():
    x = jax.random.normal(jax.random.key(5), (2, 11, 24))
    params, weights, y = captured(SelfAttention(num_heads=4, qkv_bias=True), x)
    value = split((x @ params["qkv"]["kernel"] + params["qkv"]["bias"])[..., 48:], 4)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
    np.testing.assert_allclose(out @ params["out"]["kernel"] + params["out"]["bias"], y, atol=1e-5)
    assert weights.shape == (2, 4, 11, 11)


def test_class_attention_is_what_its_weights_say():
    x = jax.random.normal(jax.random.key(5), (2, 11, 24))
    params, weights, y = captured(ClassAttention(num_heads=4, qkv_bias=True), x)
    value = split(x @ params["v"]["kernel"] + params["v"]["bias"], 4)
    out = jnp.einsum("bhk,bkhd->bhd", weights, value).reshape(2, 1, 24)
    np.testing.assert_allclose(out @ params["out"]["kernel"] + params["out"]["bias"], y, atol=1e-5)
    assert weights.shape == (2, 4, 11)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 2])
def test_group_attention_is_what_its_weights_say(interval):
    x = jax.random.normal(jax.random.key(5), (2, 7, 9, 32))  # padded
    params, weights, y = captured(GroupAttention(num_heads=4, group_size=3, interval=interval), x)
    grouping = group_map((7, 9), 3, interval)
    value = split(partition((x @ params["qkv"]["kernel"] + params["qkv"]["bias"])[..., 64:], grouping), 4)
    out = merge(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(-1, 9, 32), grouping)
    np.testing.assert_allclose(out @ params["out"]["kernel"] + params["out"]["bias"], y, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size"), [(crossvit(), (48, 48)), (crossformer(), (96, 96))])
def test_capturing_costs_nothing_when_not_asked_for(model, size, monkeypatch):
    def program(**options):
        apply = lambda v, x: model.apply(v, x, **options)  # noqa: E731
        return str(jax.make_jaxpr(apply)(variables, jnp.zeros((1, *size, 3))))

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    assert set(shapes) == {"params"}
    variables = started(model, size)[0]
    plain, asked = program(), program(mutable=[ATTENTION])
    assert asked != plain
    for module in (crosscale.layers.attention, crosscale.layers.groups):
        monkeypatch.setattr(module, "recorder", lambda module: None)
    assert program() == plain


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size"), [(crossvit(), (48, 48)), (crossformer(), (96, 96))])
def test_every_layer_is_captured_and_the_logits_stay(model, size):
    variables, images = started(model, size)
    layers = explain.weights(model, variables, images, spec=SPEC)
    expected = sum(sum(stage[:-1]) + 2 for stage in model.depth) if hasattr(model, "depth") else sum(model.depths)
    assert len(layers) == expected
    for name, weights in layers.items():
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5, err_msg=name)
    result = explain.explain(model, variables, images, spec=SPEC)
    np.testing.assert_allclose(result.outputs, jitted(model, variables, images), atol=2e-4)
    names = [m.name for m in explain.describe_maps(model, size)]
    assert names == list(dict.fromkeys(names))
    assert set(names) == set(result.maps)
    for name, values in result.maps.items():
        assert values.shape == (2, *size), name
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.std() > 0, name


def test_crossvit_maps_are_the_layers_weights_over_their_patches():
    model = crossvit()
    variables, images = started(model, (48, 48))
    layers = explain.weights(model, variables, images, spec=SPEC)
    maps = explain.attention(model, variables, images, spec=SPEC)

    # branch 0: 4 x 4 patches of 12 pixels of the picture as it is
    cls = layers["backbone/stage_1/branch_0/block_1/attention"].mean(1)[:, 0, 1:].reshape(2, 4, 4)
    np.testing.assert_allclose(maps["cls/0"], cls.repeat(12, 1).repeat(12, 2), atol=1e-6)
    np.testing.assert_allclose(
        maps["cls/0"][:, ::12, ::12].sum((1, 2)),
        1 - layers["backbone/stage_1/branch_0/block_1/attention"].mean(1)[:, 0, 0],
        atol=1e-5,
    )
    # branch 1 sees the picture at 40 pixels: 5 x 5 patches of 8, which are 9.6 pixels of the picture
    cross = layers["backbone/stage_1/fusion_0/block_0/attention"].mean(1)[:, 1:].reshape(2, 5, 5)
    edges = np.minimum(((np.arange(48) + 0.5) / 9.6).astype(int), 4)
    np.testing.assert_allclose(maps["cross/0_to_1"], cross[:, edges][:, :, edges], atol=1e-6)
    assert np.ptp(maps["cross/1_to_0"][:, :12, :12], axis=(1, 2)).max() == 0


@pytest.mark.slow
def test_patches_that_do_not_fill_the_picture_leave_its_edge_empty():
    model = crossvit(img_size=[50, 40], rescale="center_crop", depth=[[1, 1, 1]])
    variables, images = started(model, (60, 60))
    maps = explain.attention(model, variables, images, spec=SPEC)
    covered = np.zeros((60, 60), bool)
    covered[5:53, 5:53] = True  # 50 pixels from the centre, of which four patches of 12 cover 48
    np.testing.assert_array_equal(maps["cls/0"][0] > 0, covered)
    covered[:] = False
    covered[10:50, 10:50] = True
    np.testing.assert_array_equal(maps["cls/1"][0] > 0, covered)


def naive_rollout(model, layers, across):
    """By whole matrices over the tokens of all branches, from the first layer to the last."""
    tokens = [1 + rows * columns for rows, columns in model.config.grids]
    starts = np.cumsum([0, *tokens])
    total = np.broadcast_to(np.eye(starts[-1]), (2, starts[-1], starts[-1])).copy()
    for s, stage in enumerate(model.depth):
        for b, depth in enumerate(stage[:-1]):
            own = slice(starts[b], starts[b + 1])
            for i in range(depth):
                matrix = np.broadcast_to(np.eye(starts[-1]), total.shape).copy()
                weights = layers[f"backbone/stage_{s}/branch_{b}/block_{i}/attention"].mean(1)
                matrix[:, own, own] = 0.5 * (weights + np.eye(tokens[b]))
                total = matrix @ total
        if across:
            matrix = np.broadcast_to(np.eye(starts[-1]), total.shape).copy()
            if model.fusion == "cross_attention":
                for b in range(len(tokens)):
                    other = (b + 1) % len(tokens)
                    weights = layers[f"backbone/stage_{s}/fusion_{b}/block_0/attention"].mean(1)
                    matrix[:, starts[b]] = 0
                    matrix[:, starts[b], starts[b]] = 0.5 + 0.5 * weights[:, 0]
                    matrix[:, starts[b], starts[other] + 1 : starts[other + 1]] = 0.5 * weights[:, 1:]
            else:
                weights = layers[f"backbone/stage_{s}/attention"].mean(1)
                matrix = 0.5 * (weights + np.eye(starts[-1]))
            total = matrix @ total
    return total, starts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fusion", "branches"),
    joint_variants([("cross_attention", 2), ("cross_attention", 3), ("all_attention", 2)], [("cross_attention", 3)]),
)
def test_rollout_equals_the_product_of_whole_matrices(fusion, branches):
    more = {} if branches == 2 else {
        "img_size": [48, 40, 48], "patch_size": [12, 8, 16], "embed_dim": [16, 24, 16],
        "depth": [[1, 1, 2, 1], [1, 1, 1, 1]], "num_heads": [2, 4, 2],
    }  # fmt: skip
    model = crossvit(fusion=fusion, **more)
    variables, images = started(model, (48, 48))
    layers = explain.weights(model, variables, images, spec=SPEC)
    maps = explain.attention(model, variables, images, spec=SPEC)
    within, starts = naive_rollout(model, layers, across=False)
    across, _ = naive_rollout(model, layers, across=True)
    logits = across[:, starts[:-1]].mean(1)  # the head reads every branch's CLS token
    np.testing.assert_allclose(logits.sum(-1), 1, atol=1e-5)
    for b, (rows, columns) in enumerate(model.config.grids):
        patches = slice(starts[b] + 1, starts[b + 1])
        own = within[:, starts[b], patches].reshape(2, rows, columns)
        joint = logits[:, patches].reshape(2, rows, columns)
        y, x = ((np.arange(n) + 0.5) * 48 / n for n in (rows, columns))
        pick = np.ix_([0, 1], y.astype(int), x.astype(int))
        np.testing.assert_allclose(maps[f"rollout/{b}"][pick], own, atol=1e-6)
        np.testing.assert_allclose(maps[f"rollout_across/{b}"][pick], joint, atol=1e-6)


@pytest.mark.parametrize(
    ("fusion", "cls_token"),
    [("pairwise", True), ("none", True), ("cross_attention", False), ("pairwise", False)],
)
def test_every_fusion_keeps_the_shares(fusion, cls_token):
    model = crossvit(fusion=fusion, cls_token=cls_token, depth=[[1, 1, 1]])
    variables, images = started(model, (48, 48))
    maps = explain.attention(model, variables, images, spec=SPEC)
    assert {m.name for m in explain.describe_maps(model)} == set(maps)
    for name, values in maps.items():
        assert values.min() >= 0, name
    if cls_token or fusion == "none":
        return
    total = 0.0  # without CLS tokens every share lies on a patch
    for b, n in enumerate((4, 5)):
        centres = ((np.arange(n) + 0.5) * 48 / n).astype(int)
        total = total + maps[f"rollout_across/{b}"][np.ix_([0, 1], centres, centres)].sum((1, 2))
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.slow
def test_crossformer_maps_cover_the_feature_maps():
    model = crossformer()
    variables, images = started(model, (100, 78))  # an odd map on the way, and a remainder at the edge
    features = jitted(model, variables, images, method="features")
    described = {m.name: m.cells for m in explain.describe_maps(model, (100, 78))}
    for s, feature in enumerate(features.maps):
        assert described[f"stage_{s}/short"] == feature.shape[1] * feature.shape[2]
    maps = explain.attention(model, variables, images, spec=SPEC)
    for s, feature in enumerate(features.maps):
        pixels = 4 * 2**s
        for kind in ("short", "long")[: model.depths[s]]:
            cells = maps[f"stage_{s}/{kind}"][:, pixels // 2 :: pixels, pixels // 2 :: pixels]
            rows, columns = cells.shape[1:]
            if (rows, columns) == feature.shape[1:3]:
                np.testing.assert_allclose(cells.sum((1, 2)), 1, atol=1e-5)
    assert not maps["stage_0/short"][:, :, 76:].any()


@pytest.mark.parametrize("kind", ["short", "long"])
def test_crossformer_groups_lie_where_they_belong(kind):
    model = crossformer()
    variables, images = started(model, (96, 96))
    layers = explain.weights(model, variables, images, spec=SPEC)
    row, column = 14, 5  # of the 24 x 24 cells of stage 0
    position = ((row + 0.5) / 24, (column + 0.5) / 24)
    block, interval = (0, 1) if kind == "short" else (1, 4)
    weights = layers[f"backbone/stage_0/block_{block}/attention"].mean(1).reshape(2, 64, 9, 9)
    cells = np.arange(24 * 24).reshape(1, 24, 24, 1)
    groups = np.asarray(partition(jnp.asarray(cells), group_map((24, 24), 3, interval)))[..., 0]  # (64, 9)
    group, token = np.argwhere(groups == row * 24 + column)[0]
    expected = {
        "received": weights[:, group, :, token],
        "given": weights[:, group, token, :],
    }
    for direction, values in expected.items():
        maps = explain.attention(model, variables, images, spec=SPEC, position=position, direction=direction)
        grid = maps[f"stage_0/{kind}"][:, 2::4, 2::4].reshape(2, -1)
        np.testing.assert_allclose(grid[:, groups[group]], values, atol=1e-6)
        assert np.count_nonzero(grid[0]) == 9
    found = np.argwhere(maps[f"stage_0/{kind}"][0, 2::4, 2::4])
    assert set(np.diff(np.unique(found[:, 0]))) == {interval}


def test_a_single_block_has_short_distance_attention_only():
    names = [m.name for m in explain.describe_maps(crossformer())]
    assert "stage_1/short" in names
    assert "stage_1/long" not in names
    assert names[:2] == ["stage_0/short", "stage_0/long"]


@pytest.mark.slow
def test_half_precision():
    model = crossvit(dtype=jnp.bfloat16, depth=[[1, 1, 1]])
    variables, images = started(model, (48, 48))
    maps = explain.attention(model, variables, images, spec=SPEC)
    assert maps["cls/0"].dtype == np.float32
    assert 0 < maps["cls/0"].max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": None}, "uint8 images need spec="),
        ({"position": (0.5, 0.5)}, "leave it out"),
        ({"direction": "back"}, "received or given"),
    ],
)
def test_what_crossvit_refuses(options, message):
    model = crossvit()
    with pytest.raises(RequestError, match=message):
        explain.attention(model, {}, pictures((48, 48)), **{"spec": SPEC, **options})


def test_other_refusals():
    with pytest.raises(RequestError, match="fractions of height and width"):
        explain.attention(crossformer(), {}, pictures((96, 96)), spec=SPEC, position=(3, 0.5))
    with pytest.raises(
        RequestError, match=r"no attention maps for crosscale.layers.attention.SelfAttention; the families"
    ):
        explain.describe_maps(SelfAttention(2))
    with pytest.raises(RequestError, match="must be"):
        explain.attention(crossvit(), {}, pictures((48, 48))[0], spec=SPEC)


class Listed(nn.Module):
    """A head with a field that cannot be hashed."""

    widths: list[int]

    @nn.compact
    def __call__(self, features, train=False):
        return nn.Dense(self.widths[0])(features.pooled[0])


def test_a_head_may_have_a_list_among_its_fields():
    model = crossvit(depth=[[1, 1, 1]], task_head=Listed([4]))
    images = pictures((48, 48), 1)
    found = explain.explain(model, seeded_variables(model), images, spec=SPEC)
    assert found.outputs.shape == (1, 4)
    assert found.maps.keys() == explain.attention(model, seeded_variables(model), images, spec=SPEC).keys()
    assert explain.weights(model, seeded_variables(model), images, spec=SPEC)


def test_models_of_other_layers_are_named_in_full():
    sizes = {"sm_dim": 8, "lg_dim": 8, "sm_enc_mlp_dim": 8, "lg_enc_mlp_dim": 8, "lg_enc_depth": 1, "depth": 1}
    other = CompatCrossViT(image_size=48, num_classes=2, **sizes)
    variables = seeded_variables(other)
    with pytest.raises(
        RequestError, match=r"no attention maps for crosscale.compat.vit_pytorch.CrossViT; the families"
    ):
        explain.attention(other, variables, pictures((48, 48), 1), spec=SPEC)
    with pytest.raises(
        RequestError, match=r"no attention weights in crosscale.compat.vit_pytorch.CrossViT: none of its"
    ):
        explain.weights(other, variables, pictures((48, 48), 1), spec=SPEC)


def test_a_sheet_has_plain_words_and_the_rollouts_folded():
    """What people read: two scales by their patches, and the maps over all layers only where asked for."""
    found = explain.describe_maps(crosscale.create_model("crossvit_9_240"))
    assert [(m.name, m.folded) for m in found if m.name.startswith(("cls", "cross"))] == [
        ("cls/0", False),
        ("cls/1", False),
        ("cross/1_to_0", False),
        ("cross/0_to_1", False),
    ]
    assert {m.name.split("/")[0] for m in found if m.folded} == {"rollout", "rollout_across"}
    assert (found[0].kind, found[0].scale) == ("what this scale looks at", "fine: 12 px patches, 20 x 20")
