"""The contracts of every registered family and task; a new one adds its row to `FAMILY` or `TASK`."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscale.data.objects import Objects
from crosscale.models.detection import AnchorTraining
from crosscale.models.heads.proposals import Proposals
from crosscale.models.heads.retina import AnchorOutputs
from crosscale.models.region_detection import RegionTraining
from crosscale.models.registry import FAMILIES, create_model
from crosscale.tasks.detection.roi_loss import chooser
from crosscale.tasks.registry import TASKS, task_kind
from tests import contracts
from tests.contracts import Case
from tests.seeded import seeded_variables
from tests.variants import variants

BRANCHES = {"img_size": (32, 32), "patch_size": (8, 16), "embed_dim": (8, 16), "depth": [[1, 1, 1]],
            "num_heads": (2, 2), "mlp_ratio": 1.0}  # fmt: skip
PYRAMID = {"img_size": 32, "embed_dim": 16, "depths": (2, 1), "num_heads": (1, 2), "group_size": 2,
           "interval": (4, 2), "merge_size": ((2, 4),), "mlp_ratio": 1.0}  # fmt: skip
FAMILY = {
    "crossvit": BRANCHES,
    "crossformer": PYRAMID,
    "semantic_fpn_crossformer": PYRAMID | {"neck_channels": 8, "head_channels": 8},
    "upernet_crossformer": PYRAMID | {"head_channels": 8, "aux_channels": 8, "pool_scales": (1, 2),
                                      "grouping": "whole"},
    "retinanet_crossformer": {"img_size": 32, "embed_dim": 16, "depths": (1, 1, 1), "num_heads": (1, 1, 2),
                              "merge_size": ((2,), (2,)), "group_size": 2, "interval": (2, 2, 1),
                              "mlp_ratio": 1.0, "neck_channels": 8},
    "mask_rcnn_crossformer": PYRAMID | {"depths": (1, 1), "neck_channels": 8, "fc_channels": 8, "mask_channels": 8,
                                        "proposals": 6},
    "semantic_fpn_crossvit": BRANCHES | {"neck_channels": 8, "head_channels": 8},
}  # fmt: skip

RNG = np.random.default_rng(0)
# Three objects of each picture: small, medium and large, in pixels of one of 200 x 200.
BOXES = np.float32([[10, 10, 30, 30], [40, 40, 90, 90], [60, 80, 180, 190]])


def boxes_found():
    """Packed boxes (12, 5, 6) near the true ones, corners as shares, and two elsewhere."""
    found = np.zeros((12, 5, 6), np.float32)
    found[:, :3, :4] = (BOXES + RNG.normal(size=(12, 3, 4))) / 200
    found[:, 3:, :4] = np.float32([0.1, 0.6, 0.2, 0.9])
    found[..., 4] = np.sort(RNG.uniform(0.3, 0.9, (12, 5)), -1)[:, ::-1]
    found[:, :, 5] = [0, 1, 0, 0, 1]
    return found


def boxes_true(room):
    """A batch's objects; anchors are the objects themselves."""
    boxes, labels = np.zeros((12, room, 4), np.float32), np.full((12, room), -1, np.int32)
    boxes[:, :3], labels[:, :3] = BOXES, [0, 1, 0]
    return {
        "boxes": boxes,
        "labels": labels,
        "crowd": np.zeros((12, room), bool),
        "size": np.full((12, 2), 200, np.int32),
    }


def boxes_areas(room):
    return np.pad((BOXES[:, 2:] - BOXES[:, :2]).prod(-1), (0, room - 3)).astype(np.float32)


def anchors_said(outputs):
    """Logits and deltas of four anchors, the objects and another one, from the outputs' numbers."""
    anchors = jnp.concatenate([jnp.asarray(BOXES), jnp.float32([[120, 0, 150, 30]])])
    return AnchorTraining(outputs[:, :4, 4:], outputs[:, :4, :4], anchors)


REGIONS = 8  # learnt of a picture
MASKS = [[[10, 10, 30, 10, 30, 30]], [[2, 3, 9, 3, 9, 12]], [[60, 80, 180, 80, 180, 190]]]


def masks_found():
    """With masks of 28 x 28 that are sure of the left half of each box."""
    halves = np.tile(np.repeat([0.9, 0.1], 14).astype(np.float32), (12, 5, 28))
    return np.concatenate([boxes_found(), halves], -1)


def masks_learnt():
    packed, frames = np.full((12, 8, 112, 14), 255, np.uint8), np.zeros((12, 8, 4), np.float32)
    frames[:, :3] = BOXES
    return {**boxes_true(8), "masks": packed, "frames": frames}


def regions_said(outputs):
    """What two anchors and the objects themselves are said to be, from the outputs' numbers."""
    count, objects = len(outputs), {name: values[:1] for name, values in boxes_true(8).items()}
    one = chooser(jax.random.key(0), objects, 2, count=REGIONS)(Proposals(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1))))
    sample = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, 0), one)
    said = jnp.pad(outputs[..., :6], ((0, 0), (0, REGIONS - 5), (0, 0)))
    anchors = AnchorOutputs((outputs[:, None, None, 0, :2],), (outputs[:, None, None, 1, :8],))
    masks = outputs[:, :2, 6:].reshape(count, 2, 28, 28, 1) * jnp.array([1.0, -1.0])
    deltas = jnp.stack([said[..., :4], -said[..., :4]], 2)
    places = jnp.float32([[10, 10, 60, 82], [100, 100, 190, 177]])
    return RegionTraining(anchors, places, sample, said[..., :3], deltas, masks)


def true_masks(index, size):
    return SimpleNamespace(masks=MASKS)


TASK = {
    "classification": Case(
        task_kind("classification").from_artifact([f"class {label}" for label in range(7)], {}),
        RNG.normal(size=(12, 7)).astype(np.float32) * 3,
        {"label": RNG.integers(0, 7, 12).astype(np.int32)},
        3,
    ),
    "multilabel": Case(
        task_kind("multilabel").from_artifact(["cat", "dog", "outdoor"], {"thresholds": [0.3, 0.5, 0.6]}),
        RNG.normal(size=(12, 3)).astype(np.float32),
        {"tags": np.tile(np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], np.float32), (4, 1))},
        np.array([True, False, True]),
    ),
    "regression": Case(
        task_kind("regression").from_artifact(
            ["mass", "length"], {"units": ["g", ""], "mean": [5.0, 4.0], "std": [2.0, 0.5]}
        ),
        RNG.normal(5, 3, (12, 2)).astype(np.float32),
        {"values": RNG.normal(5, 3, (12, 2)).astype(np.float32)},
        np.array([5.0, 2.5]),
    ),
    "segmentation": Case(
        task_kind("segmentation").from_artifact(["sky", "sea", "sand"], {}),
        RNG.normal(size=(12, 8, 8, 3)).astype(np.float32),
        {
            "image": np.zeros((12, 32, 32, 1), np.uint8),
            "mask": RNG.integers(0, 3, (12, 32, 32)).astype(np.uint8),
            "size": np.full((12, 2), 32, np.int32),
        },
        np.zeros((20, 20), np.uint8),
        learnt={"mask": RNG.integers(0, 3, (12, 8, 8)).astype(np.uint8)},
        wrapped=lambda outputs: {"logits": outputs},
        units=64,
    ),
    "detection": Case(
        task_kind("detection").from_artifact(["cat", "dog"], {"max_objects": 8}),
        boxes_found(),
        boxes_true(256)
        | {
            "image": np.zeros((12, 32, 32, 1), np.uint8),
            "areas": np.tile(boxes_areas(256), (12, 1)),
            "original": np.full((12, 2), 200, np.int32),
        },
        Objects(np.array([[2.0, 3, 9, 12]]), np.array([1]), np.array([False]), np.array([63.0])),
        learnt=boxes_true(8),
        wrapped=anchors_said,
        units=3,
    ),
    "instances": Case(
        task_kind("instances")
        .from_artifact(["cat", "dog"], {"max_objects": 8})
        .measuring(SimpleNamespace(target=true_masks)),
        masks_found(),
        boxes_true(256)
        | {
            "image": np.zeros((12, 32, 32, 1), np.uint8),
            "areas": np.tile(boxes_areas(256), (12, 1)),
            "original": np.full((12, 2), 200, np.int32),
        },
        Objects(
            np.array([[2.0, 3, 9, 12]]), np.array([1]), np.array([False]), np.array([63.0]), ([[2, 3, 9, 3, 9, 12]],)
        ),
        learnt=masks_learnt(),
        wrapped=regions_said,
    ),
}


def test_every_family_and_task_has_a_row():
    assert FAMILY.keys() == FAMILIES.keys()
    assert TASK.keys() == TASKS.keys()


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The models are too small to gain from optimised code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# The default run takes one of each kind: branches, a pyramid, labels of pixels.
QUICK = ["crossvit", "crossformer", "semantic_fpn_crossformer"]


@pytest.fixture(scope="module", params=variants(FAMILY, QUICK))
def family(request):
    """A small model, and weights with which no attention is even."""
    model = create_model(request.param, **FAMILY[request.param], num_classes=3)
    return model, seeded_variables(model)


def test_init(family):
    contracts.check_init(family[0])


def test_apply(family):
    contracts.check_apply(*family)


def test_features(family):
    contracts.check_features(*family)


def test_attention_maps(family):
    contracts.check_attention_maps(*family)


def test_weights(family, tmp_path):
    contracts.check_weights(*family, tmp_path)


@pytest.mark.parametrize("family", variants(FAMILY, ["crossvit"]), indirect=True)
def test_export(family, tmp_path):
    contracts.check_export(*family, tmp_path)


@pytest.fixture(params=TASK)
def case(request):
    return TASK[request.param]


@pytest.mark.parametrize("case", variants(TASK, TASK.keys() - {"instances"}), indirect=True)
def test_loss(case):
    contracts.check_loss(case)


@pytest.mark.parametrize("case", variants(TASK, ["classification", "multilabel", "regression"]), indirect=True)
def test_metric(case):
    contracts.check_metric(case)


def test_artifact(case, tmp_path):
    contracts.check_artifact(case, tmp_path)


def test_results(case):
    contracts.check_results(case)


def test_examples(case):
    contracts.check_examples(case)
