"""What the quick pixels do to an accuracy: the digits, as JPEG files, learnt from the exact ones and from the quick."""

import numpy as np
import pytest
from PIL import Image

from crosscale.data import fast, open_source
from crosscale.recipe import load
from crosscale.runs.train import run_training

# Two standard errors of the difference of two accuracies around 96 %, each of 360 held-out digits: 2 sqrt(2) 1.03.
POINTS = 3.0
SIZES = (48, 96)  # in part and whole; at half the size

SETTINGS = {
    "model.options.img_size": "[16, 16]",
    "model.options.patch_size": "[4, 8]",
    "model.options.in_channels": "3",
    "data.mean": "[0.3, 0.3, 0.3]",
    "data.std": "[0.37, 0.37, 0.37]",
    "augment.scale": "[0.5, 1.0]",
    "train.epochs": "12",
    "train.batch_size": "64",
    "train.eval_every": "3",
    "data.threads": "2",
}


@pytest.fixture(scope="module")
def digits_as_jpegs(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    for split in ("train", "val"):
        source = open_source("digits", split)
        for index in range(len(source)):
            record = source[index]
            grey = Image.fromarray(np.asarray(record.image).reshape(8, 8)).resize((SIZES[index % 2],) * 2, 3)
            path = root / split / source.classes[record.target] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey.convert("RGB").save(path, quality=92)
    return root


@pytest.mark.slow
def test_digits_are_learnt_as_well(digits_as_jpegs, tmp_path, monkeypatch, record_property, capsys):
    pytest.importorskip("cv2")
    simplejpeg = pytest.importorskip("simplejpeg")
    taken = []
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg,
        "decode_jpeg",
        lambda data, **options: taken.append(options["min_factor"]) or original(data, **options),
    )
    parts = []
    whole = fast.decode_part
    monkeypatch.setattr(fast, "decode_part", lambda *place: parts.append(place[1:]) or whole(*place))
    top1 = {}
    for how in ("exact", "fast"):
        recipe = load("digits", {**SETTINGS, "data.dir": str(digits_as_jpegs), "data.decode": how})
        top1[how] = 100 * run_training(recipe, tmp_path / how)["top1"]
        record_property(how, top1[how])
        assert bool(taken) is bool(parts) is (how == "fast")
    with capsys.disabled():
        print(f"\ndigits as JPEGs: exact pixels {top1['exact']:.2f} %, quick ones {top1['fast']:.2f} %")
    assert {1, 2} <= set(taken)  # whole, and at half the size
    assert top1["exact"] > 90
    assert abs(top1["fast"] - top1["exact"]) <= POINTS
