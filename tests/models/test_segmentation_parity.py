"""Semantic FPN and UPerNet against mmsegmentation's outputs (tests/golden/segmentation), stage by stage."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.models.crossformer.block import CrossFormerBlock
from crosscale.models.crossformer.weights import OFFICIAL
from crosscale.pretrained import from_variables
from crosscale.trees import unflatten
from crosscale.weights.rules import to_ours
from tests.golden.segmentation import segmentation_seeded as seeded

BLOCKS = seeded.read("blocks")
CASES = json.loads(str(BLOCKS["meta"]))
TRAINING = {"head_drop_rate": 0.0, "drop_path_rate": 0.0}
DIM = 32


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", CASES)
def test_a_block_over_the_whole_map_equals_the_released_one(name):
    c = CASES[name]
    tokens = {"norm1": (DIM,), "attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), "norm2": (DIM,)}
    tokens |= {"mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM), "attn.pos.pos_proj": (2, 2)}
    tokens |= {f"attn.pos.pos{k}.0": (2,) for k in (1, 2, 3)} | {f"attn.pos.pos{k}.2": (2, 2) for k in (1, 2, 3)}
    shapes = {f"layers.0.blocks.0.{key}.weight": shape for key, shape in tokens.items()}
    shapes |= {f"layers.0.blocks.0.{key}.bias": shape[:1] for key, shape in tokens.items()}
    ours = to_ours(OFFICIAL, seeded.weights(shapes))
    params = unflatten({key.removeprefix("backbone/stage_0/block_0/"): value for key, value in ours.items()})
    interval = c["interval"] if c["long"] else 1
    block = CrossFormerBlock(c["heads"], c["group"], interval, grouping="whole", long=c["long"])
    found = jax.jit(block.apply)({"params": params}, seeded.array("x", (2, *c["size"], DIM)))
    assert seeded.deviation(found[..., ::4], BLOCKS[name]) < 1e-5


@pytest.fixture(scope="module", params=["semfpn", "upernet"])
def at_224(request):
    """What one pass of a model gives inside and outside, and what the reference gave. On maps that are a group times
    an interval, both groupings are one."""
    name = request.param
    model, variables = seeded.narrow(name, grouping="whole" if name == "upernet" else "regions")
    images = seeded.normalised(seeded.read("backbone_224")["image"])[None]

    def auxiliary(model, features):
        return None if model.auxiliary_head is None else model.auxiliary_head(features)

    @jax.jit
    def run(variables, images):
        logits, state = model.apply(variables, images, capture_intermediates=True)
        features = model.apply(variables, images, method="features")
        return logits, features, state["intermediates"], model.apply(variables, features, method=auxiliary)

    return name, jax.tree.map(np.asarray, run(variables, images)), seeded.read(f"{name}_224")


def inside(name, captured):
    """The intermediate results by the golden file's names."""
    head = captured["head"]
    result = {"logits": head["__call__"][0]}
    if name == "semfpn":
        result |= {f"neck_{i}": level for i, level in enumerate(captured["neck"]["__call__"][0].maps)}
        result |= {f"scale_head_{i}": head[f"scale_{i}"]["__call__"][0] for i in range(4)}
    else:
        result |= {f"ppm_{i}": head[f"pool_{i}"]["__call__"][0] for i in range(4)}
        result |= {f"fpn_{i}": head[f"output_{i}"]["__call__"][0] for i in range(3)}
        result |= {"psp": head["bottleneck"]["__call__"][0], "fused": head["fuse"]["__call__"][0]}
    return result


def test_every_stage_equals_the_reference(at_224):
    name, (_, features, captured, auxiliary), golden = at_224
    maps = seeded.read("backbone_224")
    for level, found in enumerate(features.maps):
        assert seeded.deviation(found[..., :: 2 if level == 0 else 1], maps[f"map_{level}"]) < 1e-5
    found = inside(name, captured)
    if name == "upernet":
        found["aux_logits"] = auxiliary
    assert {key for key in golden if not key.startswith(("weights/", "prediction", "logits_"))} == set(found)
    for key, ours in found.items():
        step = ours.shape[1] // golden[key].shape[1]  # large ones are stored in part
        assert seeded.deviation(ours[:, ::step, ::step], golden[key]) < 1e-5, key


def test_logits_at_the_pictures_size_equal_the_reference(at_224):
    _, (logits, _, _, _), golden = at_224
    assert logits.dtype == np.float32
    assert seeded.deviation(logits[:, ::3, ::5], golden["logits_input_size"]) < 1e-5
    two = np.sort(logits[0], axis=-1)[..., -2:]
    clear = two[..., 1] - two[..., 0] > 1e-4
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(logits[0].argmax(-1)[clear], golden["prediction"][clear])


@pytest.fixture(scope="module")
def step():
    """The loss of one batch, its gradient, and the statistics after it, under the reference's names."""
    golden = seeded.read("semfpn_train")
    model, variables = seeded.narrow("semfpn", **TRAINING)
    images, labels = seeded.normalised(golden["images"]), golden["labels"]
    one_hot = (labels[..., None] == np.arange(model.num_classes)).astype(np.float32)  # ignored: none

    @jax.jit
    def run(params, statistics, images):
        def loss(params):
            given = {"params": params, "batch_stats": statistics}
            outputs, changed = model.apply(given, images, method="training_outputs", mutable=["batch_stats"])
            return -(jax.nn.log_softmax(outputs["logits"]) * one_hot).sum(-1).mean(), changed

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, changed), slopes = run(variables["params"], variables["batch_stats"], images)
    assert set(changed) == {"batch_stats"}
    return golden, float(loss), from_variables({"params": slopes, **changed}, model, "mmseg")


@pytest.mark.slow
def test_a_training_step_has_the_loss_of_the_reference(step):
    golden, loss, _ = step
    np.testing.assert_allclose(loss, golden["decode/loss_ce"][0], rtol=1e-5)


@pytest.mark.slow
def test_statistics_after_a_step_equal_the_reference(step):
    golden, _, found = step
    after = {key.removeprefix("after/"): value for key, value in golden.items() if key.startswith("after/")}
    assert set(after) == {key for key in found if "running" in key}
    for key, value in after.items():
        assert seeded.deviation(found[key], value) < 1e-5, key


@pytest.mark.slow
def test_gradients_equal_the_reference(step):
    golden, _, found = step
    rounding = 1e-7 * golden["grad_norms"].max()  # position networks of one and two channels
    assert set(golden["names"]) == {key for key in found if "running" not in key and "tracked" not in key}
    for key, norm, dot in zip(golden["names"], golden["grad_norms"], golden["grad_dots"], strict=True):
        assert abs(np.linalg.norm(found[key]) - norm) < 1e-4 * norm + rounding, key
        probe = seeded.array(f"probe/{key}", found[key].shape)
        assert abs((found[key] * probe).sum() - dot) < np.linalg.norm(probe) * (1e-4 * norm + rounding), key


@pytest.mark.slow
def test_the_two_groupings_part_where_a_map_is_no_group_times_an_interval():
    """On 224 x 320, as 200 x 312 is padded; the blocks above are those of the first three maps and of the last."""
    images = jax.ShapeDtypeStruct((1, 224, 320, 3), jnp.float32)
    programs = []
    for grouping in ("regions", "whole"):
        model, variables = seeded.narrow("semfpn", grouping=grouping)
        traced = jax.make_jaxpr(lambda v, x, m=model: m.apply(v, x, method="cells"))(variables, images)
        assert traced.out_avals[0].shape == (1, 56, 80, 6)
        programs.append(str(traced))
    assert programs[0] != programs[1]
