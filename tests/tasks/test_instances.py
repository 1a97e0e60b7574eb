"""Instances' parts: COCO's numbers of masks, masks drawn into pictures, results in COCO's format."""

import io
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from crosscale.data.coco_masks import as_compressed, bitmap
from crosscale.data.objects import Objects
from crosscale.errors import RequestError
from crosscale.layers.roi_align import paste_masks
from crosscale.tasks.detection import Detection, Instances
from crosscale.tasks.detection.evaluation import NUMBERS, evaluate_masks
from crosscale.tasks.detection.masks import drawn_mask
from crosscale.tasks.detection.metric import MaskAveragePrecision, masks_as_coco
from crosscale.tasks.measure import check_best
from crosscale.tasks.sections import Examined

FOLDER = Path(__file__).parents[1] / "golden" / "detection"
TRUTH = json.loads((FOLDER / "coco_boxes.json").read_text())["truth"]
MASKS = json.loads((FOLDER / "coco_masks.json").read_text())
# pycocotools 2.0.11 on the golden's masks.
TWELVE = (
    0.26526771427142715, 0.5198204195419542, 0.1274127412741274, 0.24229237513416993, 0.2796813609932422,
    0.5999999999999999, 0.19092592592592592, 0.3461111111111111, 0.36277777777777775, 0.37000000000000005,
    0.3323809523809524, 0.6,
)  # fmt: skip
PER_CLASS = (0.27694925742574256, 0.21834983498349833, 0.30050405040504047, None)


def test_coco_s_twelve_numbers_of_masks_are_those_of_pycocotools():
    sizes = {item["id"]: (item["height"], item["width"]) for item in TRUTH["images"]}
    told = [
        {**item, "segmentation": as_compressed(MASKS["truth"][str(item["id"])], sizes[item["image_id"]])}
        for item in TRUTH["annotations"]
    ]
    found = evaluate_masks({**TRUTH, "annotations": told}, MASKS["found"])
    np.testing.assert_allclose([found.numbers[name] for name in NUMBERS], TWELVE, rtol=1e-12)
    assert [None if math.isnan(value) else pytest.approx(value, rel=1e-12) for value in found.per_class] == [*PER_CLASS]


def rows(side=28):
    """Two pictures, and in each an object that is found; the second's mask is that of its left half."""
    whole, left = np.ones((side, side)), np.repeat([1.0, 0.0], side // 2)[None].repeat(side, 0)
    return {
        "index": np.array([7, 3]), "boxes": np.array([[[0, 0, 30, 40]], [[8, 8, 40, 24]]], float),
        "scores": np.array([[0.8], [0.6]]), "labels": np.array([[0], [0]]), "masks": np.stack([[whole], [left]]),
        "true_boxes": np.array([[[0, 0, 30, 40]], [[8, 8, 40, 24]]], float), "true_labels": np.zeros((2, 1), int),
        "true_crowd": np.zeros((2, 1), bool), "true_areas": np.array([[1200.0], [512.0]]),
        "original": np.array([[48, 64], [48, 64]]),
    }  # fmt: skip


def target(index, size):
    """Both objects fill their boxes."""
    assert size == (48, 64)
    x0, y0, x1, y1 = {7: (0, 0, 30, 40), 3: (8, 8, 40, 24)}[index]
    box = np.array([[x0, y0, x1, y1]], float)
    polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
    return Objects(box, np.array([0]), np.array([False]), np.array([1.0]), ([polygon],))


def test_true_masks_are_read_of_the_source_and_boxes_are_measured_too():
    numbers = MaskAveragePrecision(("cat", "dog"), target).compute({}, rows())
    assert numbers["map"] == pytest.approx(1)
    # Half of the second mask is found: right at an overlap of 0.5 alone.
    assert numbers["mask_ap50"] == pytest.approx(1)
    assert numbers["mask_ap75"] == pytest.approx(0.505, abs=0.01)
    assert numbers["mask_ap/cat"] == pytest.approx(numbers["mask_map"])
    assert math.isnan(numbers["mask_ap/dog"])
    truth, found = masks_as_coco(rows(), ("cat", "dog"), target)
    assert [bitmap(item["segmentation"], (48, 64)).sum() for item in truth["annotations"]] == [1200, 512]
    assert [bitmap(item["segmentation"], (48, 64)).sum() for item in found] == [1200, 256]
    assert not any("bbox" in item for item in found)


def test_masks_are_drawn_as_paste_masks_draws_them():
    """Boxes between the pixels, beyond the picture, and without area."""
    rng = np.random.default_rng(0)
    masks = rng.random((12, 28, 28)).astype(np.float32)
    corners = rng.uniform(-8, 40, (12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 30, (12, 2))], 1).astype(np.float32)
    boxes[0, 2] = boxes[0, 0]
    wanted = np.asarray(jax.jit(lambda masks, boxes: paste_masks(masks, boxes, (50, 60)))(masks, boxes))
    for mask, box, soft in zip(masks, boxes, wanted, strict=True):
        found = drawn_mask(mask, box, (50, 60))
        wrong = found != (soft >= 0.5)
        assert (np.abs(soft[wrong] - 0.5) < 1e-5).all()
    assert 0.2 < (wanted >= 0.5)[1:].sum() / np.maximum(boxes[1:, 2:] - boxes[1:, :2], 0).prod(1).sum() < 0.8


def instances(**options):
    return Instances.from_artifact(("cat", "dog"), options)


PACKED = np.zeros((1, 3, 6 + 28 * 28), np.float32)
PACKED[0, 0, :6] = [0.1, 0.2, 0.5, 0.6, 0.9, 1]
PACKED[0, 1, :6] = [0, 0, 1, 1, 0.2, 0]
PACKED[0, 0, 6:].reshape(28, 28)[:, :14] = 1  # the left half


def test_results_have_run_lengths_of_the_picture_s_own_pixels():
    task = instances(category_ids=[3, 90])
    (found,) = task.results(PACKED, ["x/000000000139.jpg"], [(100, 200)])
    (mask,) = found.json()["masks"]
    wanted = np.zeros((100, 200), bool)
    wanted[20:60, 20:60] = True
    np.testing.assert_array_equal(bitmap(mask, (100, 200)), wanted)
    files = {name: json.loads(text) for name, text in task.together([found.json()]).items()}
    assert files == {
        "coco_results.json": [{"image_id": 139, "category_id": 90, "bbox": [20, 20, 80, 40], "score": 0.9}],
        "coco_masks.json": [{"image_id": 139, "category_id": 90, "segmentation": mask, "score": 0.9}],
    }
    (every,) = task.results(PACKED, ["a.jpg"], [(100, 200)], min_score=0)
    assert [bitmap(item, (100, 200)).sum() for item in every.json()["masks"]] == [1600, 0]
    assert task.failure("b.png", "empty").json()["masks"] == []


def test_masks_are_drawn_over_the_picture():
    (found,) = instances().results(PACKED, ["a.jpg"], [(100, 200)])
    grey = Image.new("RGB", (200, 100), (90, 90, 90))
    drawn = np.asarray(found.draw(grey)).astype(int)
    assert drawn.shape == (300, 600, 3)  # enlarged
    colour = np.array([int(found.attachments()["colours"][0][at : at + 2], 16) for at in (1, 3, 5)])
    assert (np.abs(drawn[120, 120] - (0.55 * 90 + 0.45 * colour)) <= 2).all()
    assert tuple(drawn[120, 240]) == (90, 90, 90)  # the right half of the box
    assert Image.open(io.BytesIO(found.files(grey)["_boxes.jpg"])).size == (600, 300)


def test_a_model_of_the_other_kind_is_one_line():
    with pytest.raises(RequestError, match="needs a model that gives boxes with masks, such as mask_rcnn"):
        instances().check_outputs((100, 6))
    with pytest.raises(RequestError, match="needs a model that gives boxes, such as retinanet"):
        Detection.from_artifact(("cat", "dog"), {}).check_outputs((100, 790))
    instances().check_outputs((100, 790))


def test_the_report_shows_classes_by_masks_and_draws_both_masks():
    given = rows() | {"fed": np.array([[48, 64], [48, 64]])}
    examined = Examined(
        rows=given,
        targets={},
        index=given["index"],
        name=lambda place: f"{place}.jpg",
        picture=lambda place: np.full((48, 64, 3), 77, np.uint8),
        target=lambda place: target(place, (48, 64)),
    )
    classes, worst, _ = instances().sections(examined)
    boxes, masks = classes.blocks
    assert (boxes.title, masks.title) == tuple(
        f"Average precision {of}per class, lowest first" for of in ("", "of masks ")
    )
    assert [row[:2] for row in boxes.rows] == [("cat", "100.0 %"), ("dog", "no objects")]
    assert masks.rows[0][2] == "100.0 %" != masks.rows[0][1]
    (cat,) = (picture for picture in worst.blocks[0].pictures if picture.id == "3.jpg")
    assert cat.pixels.shape == (144, 384, 3)
    ground, (left, right) = cat.pixels[140, 10], (cat.pixels[60, 110], cat.pixels[60, 192 + 110])
    assert (left != ground).any()  # the true mask fills its box, and of the found one this half is empty
    np.testing.assert_array_equal(right, ground)


def test_the_best_weights_are_chosen_by_masks_or_by_boxes():
    assert check_best(None, Instances.measures, Instances.best) == "mask_map"
    assert check_best("map", Instances.measures, Instances.best) == "map"
    with pytest.raises(RequestError, match="mask_map"):
        check_best("mask_map", Detection.measures, Detection.best)
