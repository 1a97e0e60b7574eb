"""Served instances: masks in the answer, and the page that draws them over the boxes."""

import os
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, open_page
from client import post_files, serving

from crosscale.contracts import InputSpec
from crosscale.data.coco_masks import bitmap, run_lengths
from crosscale.predictor import Predictor
from tests.seeded import seeded_run

pytestmark = pytest.mark.slow

OPTIONS = {
    "img_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "group_size": 4, "interval": [4, 2],
    "merge_size": [[2, 4]], "mlp_ratio": 1.0, "neck_channels": 8, "fc_channels": 8, "mask_channels": 8,
    "proposals": 20, "proposals_before_nms": 50,
}  # fmt: skip
CLASSES = ("cat", "moon", "man")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    limits = {"score_threshold": 0.01, "nms_threshold": 0.5, "max_detections": 5}
    told = {"input_spec": InputSpec(size=(64, 64)), "task": "instances", "task_options": {"limits": limits}}
    return seeded_run(tmp_path_factory.mktemp("masks"), "mask_rcnn_crossformer", OPTIONS, CLASSES, **told)


@pytest.fixture(scope="module")
def service(run):
    with serving(run, "--max-batch", 1) as found:
        yield found


def test_answers_have_the_masks_that_predict_gives(service, run, photos):
    answer = post_files(service.url, "/v1/predict", [("cat.png", photos["cat.png"])], min_score="1")
    assert answer.status == 200
    (found,) = answer.json["predictions"]
    (wanted,) = Predictor.from_run(run).predict([photos["cat.png"]], min_score=1)
    assert len(found["masks"]) == len(found["boxes"]) == len(wanted.masks) > 0
    for ours, theirs in zip(found["masks"], wanted.masks, strict=True):
        drawn, expected = (bitmap(mask, tuple(found["size"])) for mask in (ours, theirs))
        assert (drawn != expected).mean() < 0.01
    assert any(bitmap(mask, tuple(found["size"])).any() for mask in found["masks"])


@pytest.mark.skipif(chromium() is None and not os.environ.get("CI"), reason="no chromium on this machine")
def test_the_page_draws_masks(service, photos, tmp_path):
    (tmp_path / "cat.png").write_bytes(photos["cat.png"])
    answer = post_files(service.url, "/v1/predict", [("cat.png", photos["cat.png"])], min_score="1").json
    masks = [mask for found in answer["predictions"] for mask in found["masks"]]
    with open_page(service.url) as (page, troubles):
        for mask in masks:
            runs = page.evaluate("counts => runs(counts)", mask["counts"])
            wanted = run_lengths(bitmap(mask, tuple(mask["size"])))["counts"]
            np.testing.assert_array_equal(runs, wanted)
        page.set_input_files("#file", tmp_path / "cat.png")
        page.wait_for_selector("#boxed:not([hidden])", timeout=60_000)
        page.fill("#least", "5")
        assert "and their masks" in page.get_attribute("#boxes", "aria-label")
        place = Path(os.environ.get("CROSSCALE_SCREENSHOTS") or tmp_path)
        page.screenshot(path=place / "serve_instances.png", full_page=True)
        assert troubles == []
