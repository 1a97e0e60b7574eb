"""`crosscale data` on pictures with boxes, and the scenes that it composes of them."""

import json

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from tests.data.object_files import H, W, annotation, coco_folder, jpeg, picture, write


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))


GOOD = (
    annotation(1, category_id=90),
    annotation(2, image_id=2, bbox=(0, 0, 40, 40)),
    annotation(3, image_id=2, bbox=(30, 30, 8, 8), iscrowd=1),
)
BAD = (
    annotation(4, bbox=(5, 5, 0, 9)),
    annotation(5, bbox=(W + 9, 5, 9, 9)),
    annotation(6, category_id=4),
    annotation(7, image_id=99),
)


def data(capsys, *words, status=0):
    assert main(["data", *map(str, words)]) == status
    return capsys.readouterr()


def as_json(capsys, *words, status=0):
    return json.loads(data(capsys, *words, "--json", status=status).out)


def test_counts_for_programs(capsys, tmp_path):
    found = as_json(capsys, coco_folder(tmp_path, list(GOOD), pictures=3), "--check")
    assert found["layout"] == "COCO"
    assert found["masks"] is False
    assert found["classes"] == ["cat", "dog"]
    assert found["splits"]["val"] == {
        "examples": 3,
        "objects": 3,
        "per_picture": {"least": 0, "median": 1.0, "most": 2},
        "per_class": [2, 1],
        "counted": {"are crowds": 1, "pictures without objects": 1},
    }
    assert found["sizes"] == {name: [H, W] for name in ("smallest", "median", "largest")}
    assert found["areas"] == {"small": 2, "medium": 2, "large": 0}
    assert found["problems"] == {"count": 0, "lines": []}


def test_for_people(capsys, tmp_path):
    out = data(capsys, coco_folder(tmp_path, list(GOOD)), "--check").out
    assert "layout: COCO" in out
    assert "to train on: 2 pictures, 3 objects, 1 to 2 a picture, median 1.5" in out
    assert "  1 are crowds" in out
    assert "areas: 2 small, 2 medium, 0 large" in out
    assert "every picture and object can be used" in out
    bars = [line for line in out.splitlines() if "█" in line]
    assert [len(line.split("█")) - 1 for line in bars] == [24, 12]


def test_check_names_every_bad_annotation(capsys, tmp_path):
    root = coco_folder(tmp_path, [*GOOD, *BAD])
    write(root, {"val/2.jpg": jpeg(picture())[:200], "train/1.jpg": jpeg(picture(20, 20))})
    (root / "train/2.jpg").unlink()
    found = as_json(capsys, root, "--check", status=1)["problems"]
    told = "\n".join(found["lines"])
    for part in ("train", "val"):
        assert f"{root}/{part}.json: annotation 4 of {part}/1.jpg: the box 5 5 5 14 is 0 wide and 9 high" in told
        assert f"{root}/{part}.json: annotation 5 of {part}/1.jpg: the box 73 5 82 14 lies outside the picture" in told
        assert f"{root}/{part}.json: annotation 6 of 1.jpg: category_id 4 is not one of" in told
        assert f"{root}/{part}.json: annotation 7 is of image 99" in told
    assert f"{root}/train.json: image 2 is 2.jpg, which is not in {root}/train" in told
    assert "train/1.jpg: has 20 x 20 pixels, and" in told
    assert "val/2.jpg: the image header is damaged" in told
    assert found["count"] == len(found["lines"]) == 11


def test_ten_problems_are_printed_and_all_are_counted(capsys, tmp_path):
    root = coco_folder(tmp_path, [*GOOD, *(annotation(n, bbox=(5, 5, 0, 9)) for n in range(10, 26))])
    out = data(capsys, root, "--check", status=1).out
    assert "32 problems, the first 10:" in out
    assert out.count("is 0 wide and 9 high") == 10


def test_a_damaged_mask_is_named(capsys, tmp_path):
    pytest.importorskip("faster_coco_eval")
    damaged = annotation(2, segmentation={"size": [H, W], "counts": [1, 2]})
    told = as_json(capsys, coco_folder(tmp_path, [GOOD[0], damaged]), "--check", status=1)["problems"]["lines"]
    assert any("annotation 2 of train/1.jpg: its mask is damaged" in line for line in told)


def test_without_check_what_cannot_be_used_is_refused_by_training_alone(capsys, tmp_path):
    assert as_json(capsys, coco_folder(tmp_path, [*GOOD, *BAD]))["splits"]["train"]["objects"] == 3


class TestDraw:
    def changed(self, drawn, stored, factor):
        """Which pixels differ from those of the picture, enlarged."""
        pixels = np.asarray(Image.open(stored).convert("RGB")).repeat(factor, 0).repeat(factor, 1)
        return (np.asarray(Image.open(drawn).convert("RGB")) != pixels).any(-1)

    def test_pictures_with_their_boxes(self, capsys, tmp_path):
        root = coco_folder(tmp_path / "pets", list(GOOD), pictures=3)
        out = tmp_path / "out"
        data(capsys, root, "--draw", 3, "--write", out)
        files = sorted(out.iterdir())
        assert [file.name for file in files] == ["000-train-train-1.png", "001-train-train-2.png", "002-val-val-1.png"]
        changed = self.changed(files[1], root / "train/2.jpg", 8)  # 48 pixels are enlarged to 384
        assert changed[319, 160:320].all()  # the lower edge of the box 0 0 40 40
        assert not changed[320:, :240].any()

    def test_masks_are_laid_over(self, capsys, tmp_path):
        pytest.importorskip("faster_coco_eval")
        polygon = [[4, 6, 24, 6, 24, 16, 4, 16]]
        root = coco_folder(tmp_path / "pets", [annotation(1, segmentation=polygon)])
        data(capsys, root, "--draw", 1, "--write", tmp_path / "out")
        changed = self.changed(next((tmp_path / "out").iterdir()), root / "train/1.jpg", 8)
        assert changed[56:120, 64:184].mean() > 0.9

    def test_a_large_picture_is_made_smaller(self, capsys, tmp_path):
        root = coco_folder(tmp_path / "pets", [annotation(1)], height=100, width=4000)
        data(capsys, root, "--draw", 1, "--write", tmp_path / "out")
        assert Image.open(next((tmp_path / "out").iterdir())).size == (1600, 40)

    def test_beside_the_current_folder_by_default(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        coco_folder(tmp_path / "pets", list(GOOD))
        data(capsys, "pets", "--draw", 1)
        assert len([*(tmp_path / "pets-drawn").iterdir()]) == 1
        assert "the folder is not empty" in data(capsys, "pets", "--draw", 1, status=2).err


def test_a_folder_of_both_is_of_masks_unless_boxes_are_asked_for(capsys, tmp_path):
    """Pascal VOC has masks of classes and boxes."""
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    xml = f"<annotation><object><name>dog</name>{box}</object></annotation>"
    for number in range(4):
        write(tmp_path, {f"JPEGImages/{number}.jpg": jpeg(picture(seed=number))})
        write(tmp_path, {f"Annotations/{number}.xml": xml})
        mask = Image.fromarray(np.arange(H * W, dtype=np.uint8).reshape(H, W) % 2)
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(tmp_path / f"SegmentationClass/{number}.png")
    assert "reduce_zero_label" in as_json(capsys, tmp_path)
    assert as_json(capsys, tmp_path, "--boxes")["layout"] == "Pascal VOC"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits", "--draw", "3"], "--draw is for pictures with boxes, and digits holds none"),
        (["digits", "--boxes"], "--boxes is for pictures with boxes, and digits holds none"),
        (["pets", "--write", "out"], "pictures with boxes are in files already, and --draw N writes some"),
        (["pets", "--reduce-zero-label", "yes"], "--reduce-zero-label is for masks, and pets holds boxes"),
        (["pets", "--draw", "0"], "expected a whole number of at least 1"),
    ],
)
def test_options_that_do_not_go_together(capsys, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    coco_folder(tmp_path / "pets", list(GOOD))
    assert told in data(capsys, *words, status=2).err


class TestScenes:
    def test_every_digit_has_the_box_and_the_mask_of_what_is_seen_of_it(self, capsys, tmp_path, monkeypatch):
        pytest.importorskip("faster_coco_eval")
        from crosscale.data import scenes
        from crosscale.data.coco_masks import bitmap

        monkeypatch.setattr(scenes, "COUNTS", {"train": 5, "val": 2})
        data(capsys, "scenes", "--boxes", "--write", tmp_path / "boxes")
        data(capsys, "scenes", "--write", tmp_path / "masks")
        found = as_json(capsys, tmp_path / "boxes", "--check")
        assert found["layout"] == "COCO"
        assert found["masks"] is True
        assert found["classes"] == [str(digit) for digit in range(10)]
        assert found["problems"]["count"] == 0
        for part, count in (("train", 5), ("val", 2)):
            stored = json.loads((tmp_path / f"boxes/annotations/instances_{part}.json").read_text())
            for number in range(count):
                name = f"{part}/{number:04d}"
                assert (tmp_path / f"boxes/images/{name}.jpg").read_bytes() == (
                    tmp_path / f"masks/images/{name}.jpg"
                ).read_bytes()
                expected = np.asarray(Image.open(tmp_path / f"masks/masks/{name}.png"))
                labels = np.zeros_like(expected)
                for entry in (a for a in stored["annotations"] if a["image_id"] == number + 1):
                    seen = bitmap(entry["segmentation"], labels.shape)
                    assert not labels[seen].any()  # no pixel is of two digits
                    labels[seen] = entry["category_id"]
                    x, y, width, height = entry["bbox"]
                    assert seen.sum() == entry["area"] == seen[y : y + height, x : x + width].sum()
                    assert seen[y].any()
                    assert seen[y + height - 1].any()
                    assert seen[:, x].any()
                    assert seen[:, x + width - 1].any()
                np.testing.assert_array_equal(labels, expected)

    def test_a_covered_digit_is_left_out(self):
        from crosscale.data.scenes import Scene, coco_of

        instances = np.zeros((128, 128), np.uint8)
        instances[4:6, 7:10] = 2
        found = coco_of([Scene(np.zeros((128, 128, 3), np.uint8), instances, (5, 3))])
        assert [(a["category_id"], a["bbox"], a["area"]) for a in found["annotations"]] == [(4, [7, 4, 3, 2], 6)]
        assert found["images"] == [{"id": 1, "file_name": "0000.jpg", "width": 128, "height": 128}]

    def test_scenes_hold_two_or_three_digits(self):
        from crosscale.data import scenes
        from crosscale.data.arrays import open_digits

        digits, photographs = open_digits("val", scenes.HELD_OUT, 0), scenes._photographs("val")
        made = [
            scenes.compose(np.random.default_rng(seed), digits.images, digits.labels, photographs)
            for seed in range(100)
        ]
        counts = np.bincount([len(scene.digits) for scene in made], minlength=4)
        assert counts[0] == 0
        assert counts[1] == 0
        assert counts[3] >= 30
        assert len(counts) == 4
