"""Detection's parts: COCO's numbers, results and drawings, what a picture's boxes agree in, options."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from crosscale.data.augment import Augment
from crosscale.errors import RequestError
from crosscale.tasks.detection import Detection
from crosscale.tasks.detection.evaluation import NUMBERS, evaluate_boxes
from crosscale.tasks.detection.metric import AveragePrecision
from crosscale.tasks.detection.options import DetectionOptions
from crosscale.tasks.detection.report import agreements, sections
from crosscale.tasks.detection.result import Detected, coco_results
from crosscale.tasks.sections import Examined

COCO = json.loads((Path(__file__).parents[1] / "golden" / "detection" / "coco_boxes.json").read_text())
# pycocotools 2.0.11 on the golden's boxes.
TWELVE = (
    0.32429506492315896, 0.5938635530219688, 0.34087252475247526, 0.32737488034517737, 0.34159712399811404,
    0.5999999999999999, 0.23879629629629626, 0.4178703703703704, 0.4378703703703703, 0.4766666666666667,
    0.39841269841269844, 0.6,
)  # fmt: skip
PER_CLASS = (0.3581762238723873, 0.2721452145214521, 0.3425637563756376, None)
LABELS = ("cat", "dog")


def test_coco_s_twelve_numbers_are_those_of_pycocotools():
    found = evaluate_boxes(COCO["truth"], COCO["found"])
    np.testing.assert_allclose([found.numbers[name] for name in NUMBERS], TWELVE, rtol=1e-12)
    assert [None if math.isnan(value) else pytest.approx(value, rel=1e-12) for value in found.per_class] == [*PER_CLASS]
    assert found.precision_50.shape == (101, 4)
    np.testing.assert_allclose(np.nanmean(found.per_class_50), TWELVE[1], rtol=1e-12)


def test_the_metric_s_rows_give_the_same_numbers():
    """Pictures in the order of their ids, boxes padded to a fixed number, categories as labels."""
    truth, found = COCO["truth"], COCO["found"]
    images = sorted(truth["images"], key=lambda item: item["id"])
    ids = sorted(item["id"] for item in truth["categories"])
    room, count = 16, 400
    rows = {
        "true_boxes": np.zeros((len(images), room, 4)),
        "true_labels": np.full((len(images), room), -1),
        "true_crowd": np.zeros((len(images), room), bool),
        "true_areas": np.zeros((len(images), room)),
        "original": np.array([[item["height"], item["width"]] for item in images]),
        "boxes": np.zeros((len(images), count, 4)),
        "scores": np.zeros((len(images), count)),
        "labels": np.zeros((len(images), count), np.int32),
    }
    for row, image in enumerate(images):
        own = [item for item in truth["annotations"] if item["image_id"] == image["id"]]
        for place, item in enumerate(own):
            x, y, w, h = item["bbox"]
            rows["true_boxes"][row, place] = x, y, x + w, y + h
            rows["true_labels"][row, place] = ids.index(item["category_id"])
            rows["true_crowd"][row, place], rows["true_areas"][row, place] = item["iscrowd"], item["area"]
        for place, item in enumerate(item for item in found if item["image_id"] == image["id"]):
            x, y, w, h = item["bbox"]
            rows["boxes"][row, place] = x, y, x + w, y + h
            rows["scores"][row, place], rows["labels"][row, place] = item["score"], ids.index(item["category_id"])
    numbers = AveragePrecision(("a", "b", "c", "never")).compute({}, rows)
    np.testing.assert_allclose([numbers[name] for name in NUMBERS], TWELVE, rtol=1e-9)
    assert numbers["ap/a"] == pytest.approx(PER_CLASS[0])
    assert math.isnan(numbers["ap/never"])


def test_without_boxes_nothing_is_found_and_without_objects_there_is_no_number():
    assert evaluate_boxes(COCO["truth"], []).numbers["map"] == 0
    empty = evaluate_boxes({**COCO["truth"], "annotations": []}, COCO["found"])
    assert math.isnan(empty.numbers["map"])


def detection(**options):
    return Detection.from_artifact(LABELS, options)


PACKED = np.zeros((1, 4, 6), np.float32)
PACKED[0, :3] = [[0.1, 0.2, 0.5, 0.6, 0.9, 1], [0, 0, 1, 1, 0.4, 0], [0.5, 0.5, 0.6, 0.7, 0.2, 1]]


def test_results_are_in_pixels_of_the_picture_and_limits_are_kept():
    (found,) = detection().results(PACKED, ["a.jpg"], [(100, 200)])
    assert found.json() == {
        "source": "a.jpg", "size": [100, 200], "boxes": [[20, 20, 100, 60], [0, 0, 200, 100]],
        "classes": ["dog", "cat"], "scores": [0.9, 0.4], "error": None,
    }  # fmt: skip
    assert found.rows()[0] == ("dog", "90.0 %", "20.0", "20.0", "100.0", "60.0")
    assert len(detection().results(PACKED, ["a.jpg"], [(100, 200)], min_score=0)[0].boxes) == 3
    assert len(detection().results(PACKED, ["a.jpg"], [(100, 200)], min_score=0, max_boxes=1)[0].boxes) == 1
    (none,) = detection().results(PACKED, ["a.jpg"], [(100, 200)], min_score=95)
    assert none.rows() == [("nothing found", "", "", "", "", "")]


def test_results_in_coco_s_format_have_the_data_s_own_numbers():
    task = detection(category_ids=[3, 90])
    results = task.results(np.concatenate([PACKED, PACKED]), ["x/000000000139.jpg", "b.png"], [(100, 200)] * 2)
    found = json.loads(task.together([item.json() for item in results])["coco_results.json"])
    assert found[0] == {"image_id": 139, "category_id": 90, "bbox": [20, 20, 80, 40], "score": 0.9}
    assert found[2]["image_id"] == "b"
    assert json.loads(coco_results([task.failure("c.png", "empty").json()], {})) == []


def test_boxes_are_drawn_in_their_class_s_colour():
    (found,) = detection().results(PACKED, ["a.jpg"], [(100, 200)])
    grey = Image.new("RGB", (200, 100), (90, 90, 90))
    files = found.files(grey)
    assert list(files) == ["_boxes.jpg"]
    assert Image.open(io.BytesIO(files["_boxes.jpg"])).size == (600, 300)  # enlarged
    drawn = np.asarray(found.draw(grey))
    colours = found.attachments()["colours"]
    assert len(set(colours)) == 2
    for place, (x, y) in enumerate(((180, 179), (300, 299))):
        assert "#" + bytes(drawn[y, x]).hex() == colours[place]
    assert tuple(drawn[135, 450]) == (90, 90, 90)


def test_what_a_picture_s_boxes_agree_in():
    """Right; of another class; missed; excused by a crowd; nothing to count."""
    true = np.array([[[0, 0, 10, 10], [20, 20, 40, 40]]] * 5, float)
    labels = np.array([[0, -1], [0, -1], [0, 1], [0, 1], [-1, -1]])
    crowd = np.zeros((5, 2), bool)
    crowd[3, 1] = True
    boxes = np.array([[[0, 0, 10, 9], [22, 22, 30, 30]]] * 5, float)
    rows = {
        "true_boxes": true, "true_labels": labels, "true_crowd": crowd, "boxes": boxes,
        "scores": np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.8], [0.9, 0.8], [0.1, 0.0]]),
        "labels": np.array([[0, 0], [1, 0], [0, 1], [0, 1], [0, 0]]),
    }  # fmt: skip
    np.testing.assert_allclose(agreements(rows), [1, 0, 1 / 3, 1, np.nan])


def test_the_report_shows_classes_and_pictures_with_true_and_found_boxes():
    rows = {
        "boxes": np.array([[[0, 0, 30, 30]], [[5, 5, 20, 20]]], float), "scores": np.array([[0.8], [0.6]]),
        "labels": np.array([[0], [1]]), "true_boxes": np.array([[[0, 0, 30, 31]], [[0, 0, 9, 9]]], float),
        "true_labels": np.array([[0], [1]]), "true_crowd": np.zeros((2, 1), bool),
        "true_areas": np.array([[930.0], [81.0]]), "original": np.full((2, 2), 48),
        "fed": np.full((2, 2), 32),
    }  # fmt: skip
    examined = Examined(
        rows=rows,
        targets={},
        index=np.array([0, 1]),
        name=lambda place: f"{place}.jpg",
        picture=lambda place: np.full((32, 64, 3), 77, np.uint8),
    )
    found = sections(LABELS, examined)
    assert [section.short for section in found] == ["Classes", "Worst", "Best"]
    (table,) = found[0].blocks
    assert [row[0] for row in table.rows] == ["dog", "cat"]
    assert table.rows[0][1] == "0.0 %"
    worst, best = found[1].blocks[0], found[2].blocks[0]
    assert [picture.id for picture in worst.pictures] == ["1.jpg", "0.jpg"] == [p.id for p in best.pictures][::-1]
    assert worst.pictures[0].pixels.shape == (144, 288, 3)
    assert "100 % agree" in best.pictures[0].said


def source(**changes):
    given = {"classes": LABELS, "most_objects": 11, "category_ids": (3, 90), "notes": ("COCO",), "above": lambda n: 2}
    return SimpleNamespace(**given | changes)


def test_room_for_objects_follows_the_data_unless_the_recipe_says_otherwise():
    task = Detection.from_data(DetectionOptions(), Augment(), source())
    assert (task.labels, task.max_objects, task.ids) == (LABELS, 16, (3, 90))
    few = Detection.from_data(DetectionOptions(max_objects=5), Augment(), source())
    assert few.max_objects == 5
    assert "2 pictures have more than 5 objects (task.max_objects): the largest are learnt" in few.notes
    with pytest.raises(RequestError, match="leave the section augment as it is"):
        Detection.from_data(DetectionOptions(), Augment(hflip=0.1), source())
    with pytest.raises(RequestError, match="name no class"):
        Detection.from_data(DetectionOptions(), Augment(), source(classes=()))


def test_limits_can_be_changed_after_training_and_nothing_else():
    task = detection(limits={"score_threshold": 0.2, "nms_threshold": 0.5, "max_detections": 10})
    assert task.options.score_threshold == 0.2
    assert task.with_options({"max_detections": 7}).options.max_detections == 7
    assert task.with_options({"max_objects": 300}).max_objects == 300
    with pytest.raises(RequestError, match=r"task\.hflip does not go with a trained model"):
        task.with_options({"hflip": 0.0})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scale": [10, 20]}, "is not \\(longest, shortest\\)"),
        ({"max_objects": "many"}, "is no number"),
        ({"category_ids": [1]}, "a detection of 2 classes has room for 100 objects and 1 ids"),
        ({"limits": {"score": 1}}, "limits"),
    ],
)
def test_an_artifact_that_does_not_fit_is_one_line(options, told):
    with pytest.raises(RequestError, match=told):
        detection(**options)


def test_a_failure_has_nothing_to_draw():
    failed = detection().failure("a.jpg", "empty")
    assert isinstance(failed, Detected)
    assert failed.files(Image.new("RGB", (4, 4))) == {}
    assert failed.attachments() == {"colours": []}
