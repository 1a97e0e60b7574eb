"""Mask R-CNN's targets, losses and gradients against the reference's, and their fixed shapes."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.data.cut_masks import cut_out
from crosscale.models.heads.proposals import Proposals, proposal_anchors
from crosscale.models.heads.retina import AnchorOutputs
from crosscale.pretrained import from_variables
from crosscale.tasks.detection import roi_loss, rpn_loss
from crosscale.tasks.detection.matching import learnable
from tests.golden.segmentation.segmentation_seeded import array, normalised
from tests.models.test_mask_rcnn import reference_model

FOLDER = Path(__file__).parents[1] / "golden" / "detection"
GOLDEN, PICTURES = (dict(np.load(FOLDER / f"{name}_train.npz")) for name in ("maskrcnn", "retinanet"))
SIZE = (224, 320)
STRIDES = (4, 8, 16, 32, 64)
CELLS = 336  # more than a picture's longer side, so that no mask is shrunk
OBJECTS = 8  # rows of a picture; the others fill up
ALL = {"count": 360, "share": 32 / 360}  # more than there are: all are chosen
PARTS = {"proposal_objects": "loss_rpn_cls", "proposal_boxes": "loss_rpn_bbox", "classes": "loss_cls",
         "boxes": "loss_bbox", "masks": "loss_mask"}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def batch():
    """The golden's two pictures as a batch has them."""
    found = {"boxes": np.zeros((2, OBJECTS, 4), np.float32), "labels": np.full((2, OBJECTS), -1, np.int32)}
    found |= {"masks": np.zeros((2, OBJECTS, CELLS, CELLS // 8), np.uint8), "crowd": np.zeros((2, OBJECTS), bool)}
    found["frames"] = np.zeros((2, OBJECTS, 4), np.float32)
    images, sizes = np.zeros((2, *SIZE, 3), np.float32), []
    for i in range(2):
        picture, masks = PICTURES[f"images_{i}"], GOLDEN[f"gt_masks_packed_{i}"]
        found["boxes"][i, : len(masks)] = GOLDEN[f"gt_boxes_{i}"]
        found["labels"][i, : len(masks)] = GOLDEN[f"gt_labels_{i}"]
        cut = cut_out(np.unpackbits(masks, axis=-1).astype(bool), CELLS)
        found["masks"][i, : len(masks)], found["frames"][i, : len(masks)] = cut
        images[i, : picture.shape[0], : picture.shape[1]] = normalised(picture)
        sizes.append(picture.shape[:2])
    return images, {**found, "size": np.array(sizes, np.int32)}


@pytest.fixture(scope="module")
def step():
    """The losses with samples that take everything, and the gradient of their sum by the reference's names."""
    model, variables, _ = reference_model(img_size=SIZE, drop_path_rate=0.0)
    images, objects = batch()
    choose = roi_loss.chooser(jax.random.key(0), objects, model.num_classes, **ALL)

    @jax.jit
    def run(params):
        def total(params):
            told = {"sizes": objects["size"], "choose": choose, "masks": 32, "before_nms": 200}
            found = model.apply({"params": params}, images, **told, method="training_outputs")
            every = {"count": len(found.anchors), "share": 1.0}
            parts = rpn_loss.averaged(roi_loss.all_losses(jax.random.key(0), found, objects, **every))
            return sum(parts.values()), parts

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, parts), slopes = run(variables["params"])
    return parts, from_variables({"params": slopes}, model, "mmdet")


@pytest.mark.slow
def test_losses_are_the_references(step):
    found, _ = step
    assert found.keys() == PARTS.keys()
    for ours, theirs in PARTS.items():
        np.testing.assert_allclose(found[ours], GOLDEN[theirs].sum(), rtol=1e-5, err_msg=ours)
    np.testing.assert_allclose(sum(found.values()), GOLDEN["total"][0], rtol=1e-5)


@pytest.mark.slow
def test_gradients_are_the_references(step):
    _, found = step
    rounding = 1e-7 * GOLDEN["grad_norms"].max()  # position networks of one and two channels
    assert set(GOLDEN["names"]) == set(found)
    for key, norm, dot in zip(GOLDEN["names"], GOLDEN["grad_norms"], GOLDEN["grad_dots"], strict=True):
        assert abs(np.linalg.norm(found[key]) - norm) < 1e-4 * norm + rounding, key
        probe = array(f"probe/{key}", found[key].shape)
        assert abs((found[key] * probe).sum() - dot) < np.linalg.norm(probe) * (1e-4 * norm + rounding), key


@pytest.fixture(scope="module")
def sample():
    """What is chosen of the reference's proposals, where everything is."""
    _, objects = batch()
    boxes, scores = np.zeros((2, 351, 4), np.float32), np.zeros((2, 351), np.float32)
    for i in range(2):
        count = len(GOLDEN[f"proposals_{i}"])
        boxes[i, :count], scores[i, :count] = GOLDEN[f"proposals_{i}"], 1
    found = jax.jit(roi_loss.chooser(jax.random.key(0), objects, 5, **ALL))(Proposals(boxes, scores))
    return objects, jax.tree.map(np.asarray, found)


def test_proposals_learnt_from_are_the_references(sample):
    """Its boxes, and which of them show which object; the order is of the draw."""
    _, found = sample
    for i in range(2):
        real, positive, theirs = found.real[i], found.positive[i], GOLDEN[f"rcnn_boxes_{i}"]
        count = int(GOLDEN[f"rcnn_positive_count_{i}"][0])
        assert (real.sum(), positive.sum()) == (len(theirs), count)
        assert positive[:count].all()
        which = dict(zip(map(tuple, theirs[:count]), GOLDEN[f"rcnn_positive_gt_{i}"], strict=True))
        assert dict(zip(map(tuple, found.boxes[i][:count]), found.objects[i], strict=False)) == which
        assert set(map(tuple, found.boxes[i][real & ~positive])) == set(map(tuple, theirs[count:]))
        np.testing.assert_array_equal(found.labels[i][:count], GOLDEN[f"gt_labels_{i}"][found.objects[i][:count]])
        assert (found.labels[i][count:] == 5).all()


def test_masks_learnt_are_the_references(sample):
    objects, found = sample
    targets = jax.jit(lambda masks, frames: roi_loss.mask_targets(masks, frames, found, 32))
    ours = np.asarray(targets(objects["masks"], objects["frames"]))
    golden = iter(np.unpackbits(GOLDEN["mask_targets_packed"], axis=-1, count=28))
    for i in range(2):
        places = {tuple(box): place for place, box in enumerate(found.boxes[i])}
        for box in GOLDEN[f"rcnn_boxes_{i}"][: int(GOLDEN[f"rcnn_positive_count_{i}"][0])]:
            np.testing.assert_array_equal(ours[i, places[tuple(box)]], next(golden))
    assert next(golden, None) is None


def test_anchors_are_matched_as_by_the_reference():
    """None beyond a picture's own area is learnt from."""
    _, objects = batch()
    maps = [np.zeros((1, -(-SIZE[0] // stride), -(-SIZE[1] // stride))) for stride in STRIDES]
    anchors = jnp.concatenate(proposal_anchors(maps, STRIDES))
    choose = partial(rpn_loss.sample_anchors, count=len(anchors), share=1.0)
    given = objects["boxes"], objects["labels"] >= 0, objects["size"]
    found = jax.jit(jax.vmap(choose, (None, None, 0, 0, 0)))(jax.random.key(1), anchors, *given)
    for i in range(2):
        ours = np.full(len(anchors), -1)
        ours[found.anchors[i][found.real[i]]] = 0
        ours[found.anchors[i][found.positive[i]]] = 1
        np.testing.assert_array_equal(ours, np.clip(GOLDEN[f"rpn_assigned_{i}"], -1, 1))
        places = np.asarray(found.anchors[i][found.positive[i]])
        which = dict(zip(GOLDEN[f"rpn_positive_{i}"], GOLDEN[f"rpn_positive_gt_{i}"], strict=True))
        boxes, own = GOLDEN[f"gt_boxes_{i}"][[which[place] for place in places]], np.asarray(anchors)[places]
        away = (boxes[:, :2] + boxes[:, 2:] - own[:, :2] - own[:, 2:]) / 2 / (own[:, 2:] - own[:, :2])
        np.testing.assert_allclose(found.deltas[i][found.positive[i], :2], away, atol=1e-5)


def toy(labels, *, crowd=(False, False)):
    """Two objects, and proposals of which one is the first object but for a pixel."""
    boxes = jnp.array([[0.0, 0, 40, 40], [60, 60, 90, 90]])
    real = learnable(boxes, jnp.array(labels), jnp.array(crowd))
    proposals = Proposals(jnp.array([[1.0, 0, 40, 40], [50, 0, 60, 10], [0, 0, 0, 0]]), jnp.array([0.9, 0.5, 0.0]))
    return proposals, boxes, jnp.array(labels), real


@partial(jax.jit, static_argnums=(4, 5))
def chosen(proposals, boxes, labels, real, count, share):
    return roi_loss.sample_regions(jax.random.key(0), proposals, boxes, labels, real, 3, count=count, share=share)


def test_a_sample_has_what_there_is_and_no_more():
    found = chosen(*toy([2, 1]), 8, 0.5)
    assert found.real.tolist() == [True] * 4 + [False] * 4  # two objects and two proposals
    assert found.positive.tolist() == [True] * 3 + [False] * 5
    assert sorted(found.labels.tolist()) == [1, 2, 2, 3, 3, 3, 3, 3]
    assert found.labels[3:].tolist() == [3] * 5
    np.testing.assert_array_equal(found.boxes[3], [50, 0, 60, 10])
    assert not found.boxes[4:].any()
    assert np.isfinite(found.deltas).all()
    few = chosen(*toy([2, 1]), 4, 0.25)
    assert few.positive.tolist() == [True, False, False, False]
    assert few.real.tolist() == [True, True, False, False]


@pytest.mark.parametrize(("labels", "crowd"), [([-1, -1], (False, False)), ([2, 1], (True, True))])
def test_without_objects_all_is_background_and_losses_are_numbers(labels, crowd):
    found = chosen(*toy(labels, crowd=crowd), 8, 0.5)
    assert (found.real.sum(), found.positive.sum()) == (2, 0)
    sample = jax.tree.map(lambda leaf: leaf[None], found)

    @jax.jit
    def total(logits):
        parts = roi_loss.box_losses(logits, jnp.zeros((1, 8, 3, 4)), sample)
        parts |= roi_loss.mask_losses(jnp.zeros((1, 3, 4, 4, 3)), jnp.zeros((1, 3, 4, 4)), sample)
        found = rpn_loss.averaged(parts)
        return sum(found.values()), found

    (_, found), slope = jax.value_and_grad(total, has_aux=True)(jnp.zeros((1, 8, 4)))
    np.testing.assert_allclose([found["classes"], found["boxes"], found["masks"]], [np.log(4), 0, 0], rtol=1e-6)
    assert np.isfinite(slope).all()


def test_losses_are_those_worked_out_by_hand():
    """Of four boxes one shows an object of class 1, one nothing, and two fill up."""
    one, two = np.array([[True, False, False, False]]), np.array([[True, True, False, False]])
    deltas = np.array([[[1.0, 0, 0, -2]] + [[0] * 4] * 3])
    filled, none = np.zeros((1, 4, 4)), np.zeros((1, 4), int)
    sample = roi_loss.RegionSample(filled, two, one, np.array([[1, 2, 2, 2]]), none, deltas)
    anchors = rpn_loss.AnchorSample(np.array([[5, 0, 0, 0]]), two, one, deltas)
    said = (np.ones((1, 1, 1, 16)), np.full((1, 1, 1, 8), 0.5))  # of four anchors, and of two on the next level
    outputs = AnchorOutputs((np.zeros((1, 1, 1, 4)), np.zeros((1, 1, 1, 2))), said)

    @jax.jit
    def run():
        own = np.zeros((1, 4, 2, 4))
        own[0, 0] = [[9] * 4, [1.5, 0, 1, -2]]  # of the other class, and of its own
        logits = np.full((1, 2, 1, 2, 2), 9.0)
        logits[0, 0, 0, :, 1] = [0, -50]
        targets = np.array([[[[1.0, 0]]] * 2])
        parts = rpn_loss.rpn_losses(outputs, anchors)
        parts |= roi_loss.box_losses(np.zeros((1, 4, 3)), own, sample)
        return rpn_loss.averaged(parts | roi_loss.mask_losses(logits, targets, sample))

    found = run()
    half, third = np.log(2), np.log(3)
    wanted = {
        "proposal_objects": 2 * half / 2,  # of the two that are real
        "proposal_boxes": (0.5 + 0.5 + 0.5 + 2.5) / 2,
        "classes": 2 * third / 2,
        "boxes": (0.5 + 1) / 2,
        "masks": half / 2,  # two pixels, one of them sure
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_a_picture_that_does_not_count_changes_nothing():
    parts = {"a": (jnp.array([3.0, jnp.nan]), jnp.array([4, 7]))}
    assert float(rpn_loss.averaged(parts, jnp.array([1.0, 0.0]))["a"]) == 0.75
    assert float(rpn_loss.averaged({"a": (jnp.zeros(2), jnp.zeros(2))})["a"]) == 0
