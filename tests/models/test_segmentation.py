"""What segmentation models give, train and refuse, at any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.models.registry import create_model
from crosscale.pretrained import parameter_shapes
from crosscale.trees import flatten
from tests.seeded import seeded_variables
from tests.variants import variants

SMALL = {"img_size": 64, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "group_size": 4, "interval": 2,
         "merge_size": ((2, 4),), "num_classes": 3, "head_channels": 8}  # fmt: skip
FAMILIES = {"semantic_fpn_crossformer": {"neck_channels": 8}, "upernet_crossformer": {"aux_channels": 8}}


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def small(family, **changes):
    return create_model(family, **SMALL | FAMILIES[family] | changes)


def pictures(*size, count=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, *size, 3)), jnp.float32)


@pytest.mark.parametrize("family", variants(FAMILIES, ["semantic_fpn_crossformer"]))
def test_any_size_gives_a_logit_of_every_pixel(family):
    """Also where maps do not halve evenly, or a remainder of pixels is in no cell."""
    model = small(family)
    shapes = jax.eval_shape(model.init, jax.random.key(0), pictures(64, 64))
    for size in ((64, 96), (36, 100), (45, 67)):
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        logits = jax.eval_shape(model.apply, shapes, images)
        cells = jax.eval_shape(lambda v, x: model.apply(v, x, method="cells"), shapes, images)
        assert (logits.shape, logits.dtype) == ((2, *size, 3), np.float32)
        assert cells.shape == (2, size[0] // 4, size[1] // 4, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_gives_what_a_loss_needs_and_new_statistics(family):
    model = small(family, drop_path_rate=0.5)
    variables, images = seeded_variables(model), pictures(64, 96)

    @jax.jit
    def run(variables, images, key):
        return model.apply(variables, images, method="training_outputs", mutable=["batch_stats"], rngs={"dropout": key})

    outputs, changed = run(variables, images, jax.random.key(0))
    named = {"logits", "auxiliary"} if "upernet" in family else {"logits"}
    assert {name: value.shape for name, value in outputs.items()} == dict.fromkeys(named, (2, 64, 96, 3))
    before, after = flatten(variables["batch_stats"]), flatten(changed["batch_stats"])
    assert before.keys() == after.keys()
    assert all(np.abs(before[name] - after[name]).max() > 0 for name in before)
    again, other = (run(variables, images, jax.random.key(seed))[0]["logits"] for seed in (0, 1))
    np.testing.assert_array_equal(again, outputs["logits"])
    assert np.abs(other - outputs["logits"]).max() > 0


@pytest.mark.parametrize("family", variants(FAMILIES, ["semantic_fpn_crossformer"]))
def test_group_norm_has_no_statistics_and_sees_each_picture_alone(family):
    model = small(family, norm="group", head_drop_rate=0.0, drop_path_rate=0.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), pictures(64, 64))
    assert set(shapes) == {"params"}
    variables, images = seeded_variables(model), pictures(64, 64)
    train = jax.jit(lambda v, x: model.apply(v, x, method="training_outputs")["logits"])
    both = train(variables, images)
    np.testing.assert_allclose(train(variables, images[:1]), both[:1], rtol=1e-4, atol=1e-5)
    assert set(model.weight_rules()) == {"mmseg", "official"}


def test_the_auxiliary_head_is_made_and_is_no_part_of_the_answer():
    names = parameter_shapes(small("upernet_crossformer"))
    without = parameter_shapes(small("upernet_crossformer", aux_channels=0))
    assert {name for name in names if name not in without} == {n for n in names if n.startswith("auxiliary_head/")}
    assert names["auxiliary_head/block_0/conv/kernel"] == (3, 3, 16, 8)  # the last stage but one


def test_half_precision_stays_near_float32():
    exact, low = small("semantic_fpn_crossformer"), small("semantic_fpn_crossformer", dtype=jnp.bfloat16)
    variables, images = seeded_variables(exact), pictures(64, 64)
    wanted, found = (np.asarray(jax.jit(model.apply)(variables, images)) for model in (exact, low))
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_an_empty_batch_gives_an_empty_answer():
    model = small("semantic_fpn_crossformer")
    shapes = jax.eval_shape(model.init, jax.random.key(0), pictures(64, 64))
    assert jax.eval_shape(model.apply, shapes, pictures(64, 64)[:0]).shape == (0, 64, 64, 3)


@pytest.mark.parametrize(
    ("family", "grouping", "sizes"),
    [
        ("semantic_fpn_crossformer", "whole", (16, 48)),
        pytest.param("upernet_crossformer", "regions", (8, 40), marks=pytest.mark.slow),
    ],
)
def test_one_program_serves_open_sizes(family, grouping, sizes):
    """Also where the groups, and with them their position biases, grow with the map; the steps are whole intervals."""
    model = small(family, grouping=grouping)
    step, smallest = model.open_sizes()
    assert (step, smallest) == sizes
    variables, images = seeded_variables(model), pictures(48, 64, count=1)
    least = [f"{side} >= {smallest // step}" for side in ("h", "w")]
    dims = jax.export.symbolic_shape(f"b, {step}*h, {step}*w", constraints=least)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    program = jax.export.export(jax.jit(model.apply))(shapes, jax.ShapeDtypeStruct((*dims, 3), jnp.float32))
    wanted = np.asarray(jax.jit(model.apply)(variables, images))
    assert np.abs(program.call(variables, images) - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        ("semantic_fpn_crossformer", {"grouping": "region"}, "grouping='region' is not one of regions, whole"),
        ("crossformer", {"grouping": "maps"}, "grouping='maps' is not one of regions, whole"),
        ("upernet_crossformer", {"norm": "layer"}, "norm='layer' is not one of batch, group"),
        ("upernet_crossformer", {"pool_scales": (1, 0)}, r"pool_scales=\[1, 0\]: .* each 1 or more"),
        ("upernet_crossformer", {"pool_scales": ()}, r"pool_scales=\[\]: give one number of bins"),
        ("upernet_crossformer", {"pool_scales": "1, 2"}, "pool_scales='1, 2' is neither a number nor a list"),
        ("upernet_crossformer", {"aux_channels": -1}, "aux_channels=-1 must be 0 or more"),
        ("upernet_crossformer", {"depths": (1,), "num_heads": 1, "merge_size": (), "group_size": 7, "interval": 1},
         "aux_channels: the auxiliary head reads the last stage but one"),
        ("semantic_fpn_crossformer", {"neck_channels": 0}, "neck_channels=0 must be 1 or more"),
        ("semantic_fpn_crossformer", {"head_channels": 1.5}, "head_channels=1.5 is not a whole number"),
        ("semantic_fpn_crossformer", {"head_drop_rate": 1.0}, "head_drop_rate=1.0 is not in 0 <= rate < 1"),
        ("semantic_fpn_crossformer", {"num_classes": 256}, "num_classes=256: a segmentation has 1 to 255 classes"),
        ("semantic_fpn_crossformer", {"num_classes": 0}, "num_classes=0: a segmentation has 1 to 255 classes"),
        ("semantic_fpn_crossformer", {"aux_channels": 8}, "has no option 'aux_channels'"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line(family, options, told):
    with pytest.raises(RequestError, match=told):
        create_model(family, **options)


def test_images_that_do_not_fit_are_refused():
    model = small("semantic_fpn_crossformer")
    with pytest.raises(RequestError, match="images have 1 channels, the model was built with in_channels=3"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
