"""RetinaNet's targets, losses and gradients against the reference's, and their fixed shapes."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.layers.boxes import decode_boxes, encode_boxes, generalized_box_iou
from crosscale.models.registry import create_model
from crosscale.pretrained import from_variables, parameter_shapes, to_variables
from crosscale.pretrained.naming import variables_of
from crosscale.tasks.detection.anchor_loss import anchor_losses, anchor_targets, batch_losses
from tests.golden.segmentation.segmentation_seeded import BACKBONE, array, normalised, weights

FOLDER = Path(__file__).parents[1] / "golden" / "detection"
GOLDEN = dict(np.load(FOLDER / "retinanet_train.npz"))
SIZE = (224, 320)
OBJECTS = 8  # rows of a picture; the others fill up


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def objects():
    """The golden's two pictures as a batch has them."""
    found = {"boxes": np.zeros((2, OBJECTS, 4), np.float32), "labels": np.full((2, OBJECTS), -1, np.int32)}
    images = np.zeros((2, *SIZE, 3), np.float32)
    sizes = []
    for i in range(2):
        picture, count = GOLDEN[f"images_{i}"], len(GOLDEN[f"gt_boxes_{i}"])
        found["boxes"][i, :count] = GOLDEN[f"gt_boxes_{i}"]
        found["labels"][i, :count] = GOLDEN[f"gt_labels_{i}"]
        images[i, : picture.shape[0], : picture.shape[1]] = normalised(picture)
        sizes.append(picture.shape[:2])
    return images, {**found, "crowd": np.zeros((2, OBJECTS), bool), "size": np.array(sizes, np.int32)}


@pytest.fixture(scope="module")
def model():
    return create_model(
        "retinanet_crossformer",
        **BACKBONE | {"num_classes": 5, "neck_channels": 16, "img_size": SIZE, "drop_path_rate": 0.0},
    )


@pytest.fixture(scope="module")
def step(model):
    """Both losses and their normaliser; the gradient by the reference's names; the anchors and their targets."""
    zeros = variables_of({name: np.zeros(shape) for name, shape in parameter_shapes(model).items()}, model)
    shapes = {name: value.shape for name, value in from_variables(zeros, model, "mmdet").items()}
    kept = np.load(FOLDER / "retinanet_224.npz")
    given = {key.removeprefix("weights/"): kept[key] for key in kept.files if key.startswith("weights/")}
    variables = to_variables(weights(shapes, given), model, "mmdet", "the reference")
    images, batch = objects()

    @jax.jit
    def run(params, images):
        def loss(params):
            found = model.apply({"params": params}, images, method="training_outputs")
            classes, boxes, count = batch_losses(found.logits, found.deltas, found.anchors, batch, jnp.ones(2))
            return (classes + boxes) / count, (classes / count, boxes / count, count, found.anchors)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (*parts, anchors)), slopes = run(variables["params"], images)
    given = (batch[name] for name in ("boxes", "labels", "crowd", "size"))
    targets = jax.jit(jax.vmap(anchor_targets, (None, 0, 0, 0, 0)))(anchors, *given)
    return [float(part) for part in parts], from_variables({"params": slopes}, model, "mmdet"), (anchors, targets)


@pytest.mark.slow
def test_every_anchor_is_matched_as_by_the_reference(step):
    anchors, targets = step[2]
    np.testing.assert_array_equal(targets.matched, np.maximum(GOLDEN["assigned"], -1))
    positives = np.argwhere(np.asarray(targets.matched) > 0)
    np.testing.assert_array_equal(positives, GOLDEN["positives"])
    deltas = encode_boxes(targets.boxes, anchors)[tuple(positives.T)]
    np.testing.assert_allclose(deltas, GOLDEN["positive_targets"], atol=1e-5)
    np.testing.assert_array_equal(np.where(GOLDEN["assigned"] > 0, GOLDEN["labels"], -1), targets.labels)


def test_the_losses_are_the_references(step):
    classes, boxes, count = step[0]
    assert count == GOLDEN["normaliser"]
    np.testing.assert_allclose(classes, GOLDEN["loss_cls"].sum(), rtol=1e-5)
    np.testing.assert_allclose(boxes, GOLDEN["loss_bbox"].sum(), rtol=1e-5)


def test_the_gradients_are_the_references(step):
    found = step[1]
    rounding = 1e-7 * GOLDEN["grad_norms"].max()  # position networks of one and two channels
    assert set(GOLDEN["names"]) == set(found)
    for key, norm, dot in zip(GOLDEN["names"], GOLDEN["grad_norms"], GOLDEN["grad_dots"], strict=True):
        assert abs(np.linalg.norm(found[key]) - norm) < 1e-4 * norm + rounding, key
        probe = array(f"probe/{key}", found[key].shape)
        assert abs((found[key] * probe).sum() - dot) < np.linalg.norm(probe) * (1e-4 * norm + rounding), key


# Six anchors: on an object, near it, half on it, apart, beyond the picture, on a crowd.
ANCHORS = jnp.float32(
    [[0, 0, 10, 10], [0, 0, 10, 14], [0, 0, 10, 23], [40, 40, 50, 50], [60, 60, 74, 70], [20, 0, 30, 10]]
)
BOXES = jnp.float32([[0, 0, 10, 10], [20, 0, 30, 10], [5, 5, 5, 9], [0, 0, 0, 0]])
targets_of, losses_of = jax.jit(anchor_targets), jax.jit(anchor_losses, static_argnums=4)
LABELS, CROWD = jnp.int32([1, 0, 0, -1]), jnp.array([False, True, False, False])


def test_crowds_boxes_without_area_and_what_fills_up_are_not_learnt():
    found = targets_of(ANCHORS, BOXES, LABELS, CROWD, jnp.int32([64, 64]))
    # The centre of the fifth lies beyond 64 pixels; the third overlaps by 0.43, between the two bounds.
    assert found.matched.tolist() == [1, 1, -1, 0, -1, 0]
    assert found.labels.tolist() == [1, 1, -1, -1, -1, -1]
    nothing = targets_of(ANCHORS, BOXES, jnp.int32([-1] * 4), CROWD, jnp.int32([64, 64]))
    assert nothing.matched.tolist() == [0, 0, 0, 0, -1, 0]


def test_losses_by_their_formulas():
    rng = np.random.default_rng(0)
    logits, deltas = (jnp.asarray(rng.normal(size=(6, n)), jnp.float32) for n in (2, 4))
    targets = targets_of(ANCHORS, BOXES, LABELS, CROWD, jnp.int32([64, 64]))
    classes, boxes, count = losses_of(logits, deltas, ANCHORS, targets, "l1")
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    one = np.zeros((6, 2))
    one[:2, 1] = 1
    focal = -(one * 0.25 * (1 - p) ** 2 * np.log(p) + (1 - one) * 0.75 * p**2 * np.log(1 - p))
    np.testing.assert_allclose(classes, focal[[0, 1, 3, 5]].sum(), rtol=1e-5)
    wanted = encode_boxes(jnp.broadcast_to(BOXES[0], (2, 4)), ANCHORS[:2])
    np.testing.assert_allclose(boxes, np.abs(deltas[:2] - wanted).sum(), rtol=1e-5)
    assert count == 2
    giou = generalized_box_iou(decode_boxes(deltas[:2], ANCHORS[:2]), jnp.broadcast_to(BOXES[0], (2, 4)))
    np.testing.assert_allclose(losses_of(logits, deltas, ANCHORS, targets, "giou")[1], (1 - giou).sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_a_picture_without_objects_has_a_finite_slope(kind):
    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def slopes_of(logits, deltas):
        given = {"boxes": jnp.zeros((1, 2, 4)), "labels": jnp.full((1, 2), -1), "crowd": jnp.zeros((1, 2), bool)}
        given["size"] = jnp.full((1, 2), 64)
        classes, boxes, count = batch_losses(logits, deltas, ANCHORS, given, jnp.ones(1), kind)
        return (classes + boxes) / count

    slopes = slopes_of(jnp.zeros((1, 6, 2)), jnp.zeros((1, 6, 4)))
    assert np.isfinite(slopes[0]).all()
    assert np.abs(slopes[0]).max() > 0
    assert not np.any(slopes[1])
