"""Mask R-CNN on CrossFormer: the reference's numbers, fixed shapes, names, and what cannot be built."""

from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.errors import RequestError
from crosscale.layers.roi_align import paste_masks
from crosscale.models.registry import create_model
from crosscale.pretrained import from_variables, parameter_shapes, to_variables
from crosscale.pretrained.naming import variables_of
from tests.golden.segmentation.segmentation_seeded import BACKBONE, deviation, normalised, read, weights
from tests.seeded import seeded_variables

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "detection" / "maskrcnn_224.npz"))
NARROW = BACKBONE | {"img_size": 224, "num_classes": 5, "neck_channels": 16, "fc_channels": 32, "mask_channels": 16,
                     "proposals_before_nms": 100}  # fmt: skip
SMALL = {"img_size": (64, 96), "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 1), "group_size": 4,
         "interval": (2, 1), "merge_size": ((2,),), "mlp_ratio": 1.0, "num_classes": 3, "neck_channels": 8,
         "fc_channels": 8, "mask_channels": 8, "proposals": 20}  # fmt: skip


def reference_model(**changes):
    """The golden file's model with the reference's weights, and these by its names."""
    model = create_model("mask_rcnn_crossformer", **NARROW | changes)
    zeros = variables_of({name: np.zeros(shape) for name, shape in parameter_shapes(model).items()}, model)
    shapes = {name: value.shape for name, value in from_variables(zeros, model, "mmdet").items()}
    given = {key.removeprefix("weights/"): value for key, value in GOLDEN.items() if key.startswith("weights/")}
    assert given.keys() <= shapes.keys()
    flat = weights(shapes, given)
    return model, to_variables(flat, model, "mmdet", "the reference"), flat


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def reference():
    return reference_model()


@pytest.fixture(scope="module")
def at_224(reference):
    """What the reference's picture gives, and what is between, from one program."""
    model, variables, _ = reference
    images = jnp.asarray(normalised(read("backbone_224")["image"]))[None]

    def between(module, method):
        return method in ("__call__", "propose", "read_boxes", "read_masks")

    @jax.jit
    def run(variables, images):
        return model.apply(variables, images, method="detect", capture_intermediates=between, mutable=["intermediates"])

    found, state = jax.tree.map(np.asarray, run(variables, images))
    return found, state["intermediates"]


@pytest.mark.slow
def test_every_stage_is_the_references(at_224):
    _, between = at_224
    (pyramid,), head = between["neck"]["__call__"], between["head"]
    ((outputs, proposals),), ((logits, deltas),), (masks,) = (
        head[method] for method in ("propose", "read_boxes", "read_masks")
    )
    assert pyramid.strides == (4, 8, 16, 32, 64)
    for level in range(5):
        step = 2 if level == 0 else 1  # the finest is stored in part
        for ours, name in ((pyramid.maps, "neck"), (outputs.logits, "rpn_cls"), (outputs.deltas, "rpn_reg")):
            assert deviation(ours[level][:, ::step, ::step], GOLDEN[f"{name}_{level}"]) < 1e-5, name
    real = len(GOLDEN["proposals"])
    assert (proposals.scores[0] > 0).sum() == real
    np.testing.assert_allclose(proposals.scores[0, :real], GOLDEN["proposal_scores"], atol=1e-5)
    np.testing.assert_allclose(proposals.boxes[0, :real], GOLDEN["proposals"], atol=1e-3)
    assert not proposals.boxes[0, real:].any()
    assert deviation(logits[0, :real], GOLDEN["class_logits"]) < 1e-5
    assert deviation(deltas[0, :real].reshape(real, -1), GOLDEN["box_deltas"]) < 1e-5
    own = np.take_along_axis(masks[0, :24], GOLDEN["labels"][:24, None, None, None], -1)[..., 0]
    assert deviation(own, GOLDEN["mask_logits"]) < 1e-5
    assert deviation(masks[0, :3], GOLDEN["mask_logits_all_classes"]) < 1e-5


def test_detections_are_the_references(at_224):
    found, _ = at_224
    assert found.count.tolist() == [100]
    np.testing.assert_array_equal(found.labels[0], GOLDEN["labels"])
    np.testing.assert_allclose(found.scores[0], GOLDEN["scores"], atol=1e-5)
    np.testing.assert_allclose(found.boxes[0], GOLDEN["boxes"], atol=2e-3)
    drawn = np.asarray(paste_masks(jnp.asarray(found.masks[0]), jnp.asarray(found.boxes[0]), (224, 224)))
    np.testing.assert_allclose(drawn[:6, ::3, ::3], GOLDEN["soft_masks"], atol=1e-4)
    wanted = np.unpackbits(GOLDEN["masks_packed"], axis=-1, count=224).astype(bool)
    wrong = (drawn[:40] >= 0.5) != wanted
    assert (np.abs(drawn[:40][wrong] - 0.5) < 1e-4).all()
    areas, near = (drawn >= 0.5).sum((1, 2)), (np.abs(drawn - 0.5) < 1e-4).sum((1, 2))
    assert (np.abs(areas - GOLDEN["mask_areas"]) <= near).all()


def test_names_go_both_ways(reference):
    model, variables, flat = reference
    back = from_variables(variables, model, "mmdet")
    assert back.keys() == flat.keys()
    for name, values in flat.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)


@pytest.mark.slow
def test_shapes_of_tensors_are_the_released_ones():
    """Also of the first layer over a flattened map and the transposed convolution; 50.2 M in all on CrossFormer-S."""
    model = create_model("mask_rcnn_crossformer", img_size=224)
    ours = parameter_shapes(model)
    assert sum(int(np.prod(shape)) for shape in ours.values()) == 50_160_762
    zeros = variables_of({name: np.broadcast_to(np.float32(0), shape) for name, shape in ours.items()}, model)
    theirs = {name: value.shape for name, value in from_variables(zeros, model, "mmdet").items()}
    assert theirs["rpn_head.rpn_reg.weight"] == (12, 256, 1, 1)
    assert theirs["roi_head.bbox_head.shared_fcs.0.weight"] == (1024, 12544)
    assert theirs["roi_head.bbox_head.fc_reg.weight"] == (320, 1024)
    assert theirs["roi_head.mask_head.upsample.weight"] == (256, 256, 2, 2)
    assert theirs["roi_head.mask_head.conv_logits.weight"] == (80, 256, 1, 1)


@pytest.mark.slow
def test_boxes_lie_in_their_own_picture_and_batches_change_nothing():
    model = create_model("mask_rcnn_crossformer", **SMALL)
    variables = seeded_variables(model)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 96, 3)), jnp.float32)
    sizes = jnp.array([[64, 96], [40, 50]])
    detect = jax.jit(lambda v, x, s: model.apply(v, x, s, score_threshold=0.01, count=9, method="detect"))
    found = detect(variables, images, sizes)
    assert found.boxes.shape == (2, 9, 4)
    assert found.masks.shape == (2, 9, 28, 28)
    for i, (height, width) in enumerate(np.asarray(sizes)):
        count = int(found.count[i])
        assert count > 0
        boxes, scores = np.asarray(found.boxes[i]), np.asarray(found.scores[i])
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert (np.diff(scores[:count]) <= 0).all()
        assert (boxes[count:] == 0).all()
        assert 0 < np.asarray(found.masks[i, :count]).min() < np.asarray(found.masks[i, :count]).max() < 1
        assert not np.asarray(found.masks[i, count:]).any()
    swapped = detect(variables, images[::-1], sizes[::-1])
    np.testing.assert_allclose(swapped.boxes[::-1], found.boxes, atol=1e-3)
    np.testing.assert_allclose(swapped.masks[::-1], found.masks, atol=1e-4)


@pytest.mark.slow
def test_nothing_above_the_threshold_and_no_picture():
    model = create_model("mask_rcnn_crossformer", **SMALL)
    variables = seeded_variables(model)
    images = jnp.zeros((1, 64, 96, 3))
    found = jax.jit(lambda v, x: model.apply(v, x, score_threshold=1.0, method="detect"))(variables, images)
    assert int(found.count[0]) == 0
    assert not any(np.asarray(leaf).any() for leaf in (found.boxes, found.scores, found.masks))
    none = jax.eval_shape(lambda v, x: model.apply(v, x, count=7, method="detect"), variables, images[:0])
    assert none.boxes.shape == (0, 7, 4)
    assert none.masks.shape == (0, 7, 28, 28)
    raw = jax.eval_shape(model.apply, variables, images[:0])
    assert raw.logits.shape == (0, 20, 4)


@pytest.mark.slow
def test_one_exported_program_serves_any_number_of_pictures():
    model = create_model("mask_rcnn_crossformer", **SMALL)
    variables = seeded_variables(model)
    detect = jax.jit(lambda x, s: model.apply(variables, x, s, score_threshold=0.01, count=9, method="detect"))
    (count,) = jax.export.symbolic_shape("count")
    program = jax.export.export(detect)(
        jax.ShapeDtypeStruct((count, 64, 96, 3), jnp.float32), jax.ShapeDtypeStruct((count, 2), jnp.int32)
    )
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 96, 3)), jnp.float32)
    sizes = jnp.array([[64, 96], [40, 50], [64, 80]])
    wanted, found = detect(images, sizes), program.call(images, sizes)
    assert (np.asarray(wanted.count) > 0).all()
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_classes": 0}, "num_classes=0: a detector has one class or more"),
        ({"fc_channels": 0}, "fc_channels=0 must be 1 or more"),
        ({"proposals": 2.5}, "proposals=2.5 is not a whole number"),
        ({"mask_chanels": 8}, "did you mean 'mask_channels'"),
    ],
)
def test_what_cannot_be_built_is_one_line(options, told):
    with pytest.raises(RequestError, match=told):
        create_model("mask_rcnn_crossformer", **SMALL | options)


@pytest.mark.slow
def test_where_nobody_chooses_the_first_proposals_are_learnt_from():
    """As an estimate of what a training costs wants it: the shapes are those of a step."""
    model = create_model("mask_rcnn_crossformer", **SMALL | {"proposals": 600, "img_size": (256, 256)})
    images = jnp.zeros((2, 256, 256, 3))
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    found = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, method="training_outputs"), shapes, images)
    assert found.sample.boxes.shape == (2, 512, 4)
    assert found.deltas.shape == (2, 512, 3, 4)
    assert found.masks.shape == (2, 128, 28, 28, 3)
