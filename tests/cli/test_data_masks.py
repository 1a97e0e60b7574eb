"""`crosscale data` on folders of pictures with masks."""

import json

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def streets(tmp_path):
    """Eight pictures of 10 x 20 pixels: road 60 %, car 30 %, ignored 10 %; in one of them the car is a tree."""
    root = tmp_path / "streets"
    for split, count in (("train", 6), ("val", 2)):
        for base in ("images", "masks"):
            (root / base / split).mkdir(parents=True)
        for number in range(count):
            labels = np.zeros((20, 10), np.uint8)
            labels[12:18] = 2 if split == "val" and not number else 1
            labels[18:] = 255
            Image.fromarray(labels).save(root / f"masks/{split}/{number}.png")
            Image.new("RGB", (10, 20)).save(root / f"images/{split}/{number}.jpg")
    (root / "classes.txt").write_text("road\ncar\ntree\nsky\n")
    return root


def checked(capsys, root, *words, status=0):
    assert main(["data", str(root), *words, "--check", "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_check_counts_every_pixel(capsys, streets):
    found = checked(capsys, streets)
    assert found["layout"] == "images/ and masks/"
    assert found["notes"] == ["4 classes by classes.txt"]
    assert found["reduce_zero_label"] is False
    assert found["splits"] == {"train": {"examples": 6}, "val": {"examples": 2}}
    assert found["pixels"] == [
        {"class": "road", "pixels": 8 * 120, "share": pytest.approx(0.6), "masks": 8},
        {"class": "car", "pixels": 7 * 60, "share": pytest.approx(0.2625), "masks": 7},
        {"class": "tree", "pixels": 60, "share": pytest.approx(0.0375), "masks": 1},
        {"class": "sky", "pixels": 0, "share": 0, "masks": 0},
    ]
    assert found["ignored"] == {"pixels": 8 * 20, "share": pytest.approx(0.1)}
    assert found["sizes"] == {"smallest": [20, 10], "median": [20, 10], "largest": [20, 10]}
    assert found["problems"] == {"count": 0, "lines": []}


def test_for_people(capsys, streets):
    assert main(["data", str(streets), "--check"]) == 0
    out = capsys.readouterr().out
    assert "layout: images/ and masks/" in out
    assert "6 to train on, 2 held out" in out
    assert "sizes: smallest 10 x 20" in out
    assert "ignored: 10.00 % of the pixels" in out
    assert "every picture and mask can be used" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["1", "car", "26.25", "%"] in [row[:4] for row in rows]
    lengths = {row[1]: row[4].count("█") + row[4].count("#") for row in rows if row[2:] and row[2][0].isdigit()}
    assert lengths["road"] == 24
    assert lengths["car"] == round(24 * 0.2625 / 0.6)
    assert lengths["tree"] >= 1


def test_without_check_no_mask_of_named_classes_is_read(capsys, streets):
    (streets / "masks/train/0.png").write_bytes(b"")
    assert main(["data", str(streets)]) == 0
    out = capsys.readouterr().out
    assert ["3", "sky"] in [line.split() for line in out.splitlines()]
    assert main(["data", str(streets), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["road", "car", "tree", "sky"]


def test_problems_are_counted_and_end_in_status_1(capsys, streets):
    for number in range(6):
        (streets / f"masks/train/{number}.png").write_bytes(b"")
    for number in range(7):
        Image.new("RGB", (10, 20)).save(streets / f"images/val/lonely{number}.jpg")
    found = checked(capsys, streets, status=1)
    assert found["problems"]["count"] == 13
    assert found["problems"]["lines"][0] == "masks/train/0.png: the file is empty (0 bytes)"
    assert found["problems"]["lines"][6] == "images/val/lonely0.jpg: a picture without a mask"
    assert main(["data", str(streets), "--check"]) == 1
    out = capsys.readouterr().out
    assert "13 problems, the first 10:" in out
    assert sum(line.startswith(("  masks/", "  images/")) for line in out.splitlines()) == 10


def test_a_lonely_file_of_data_in_one_part_counts_once(capsys, tmp_path):
    root = tmp_path / "flat"
    for base in ("images", "masks"):
        (root / base).mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (4, 4)).save(root / f"images/{number}.png")
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / f"masks/{number}.png")
    Image.new("RGB", (4, 4)).save(root / "images/lonely.png")
    found = checked(capsys, root, status=1)
    assert found["problems"] == {"count": 1, "lines": ["images/lonely.png: a picture without a mask"]}
    assert found["splits"] == {"train": {"examples": 4}, "val": {"examples": 1}}


def test_zero_is_left_out_where_asked_for(capsys, streets):
    (streets / "classes.txt").write_text("car\ntree\n")
    found = checked(capsys, streets, "--reduce-zero-label", "yes")
    assert [row["pixels"] for row in found["pixels"]] == [7 * 60, 60]
    assert found["reduce_zero_label"] is True
    assert "reduce_zero_label: yes, as asked for; 0 is ignored, 1..2 become 0..1" in found["notes"]


def test_options_that_do_not_go_with_the_data(capsys, streets, tmp_path):
    assert main(["data", "digits", "--reduce-zero-label", "yes"]) == 2
    assert "--reduce-zero-label is for pictures with masks" in capsys.readouterr().err
    assert main(["data", str(streets), "--write", str(tmp_path / "out")]) == 2
    assert "--write makes a folder of labelled pictures" in capsys.readouterr().err
