"""A served detection: boxes in the answer, and the page that draws them."""

import os
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, open_page
from client import post_files, serving

from crosscale.contracts import InputSpec
from crosscale.predictor import Predictor
from tests.seeded import seeded_run

pytestmark = pytest.mark.slow

OPTIONS = {
    "img_size": 64, "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "group_size": 4,
    "interval": [4, 2, 1], "merge_size": [[2, 4], [2, 4]], "mlp_ratio": 1.0, "neck_channels": 8,
}  # fmt: skip
CLASSES = ("cat", "moon", "man")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    limits = {"score_threshold": 0.01, "nms_threshold": 0.5, "max_detections": 20}
    told = {"input_spec": InputSpec(size=(64, 64)), "task": "detection", "task_options": {"limits": limits}}
    return seeded_run(tmp_path_factory.mktemp("boxes"), "retinanet_crossformer", OPTIONS, CLASSES, **told)


@pytest.fixture(scope="module")
def service(run):
    with serving(run) as found:
        yield found


def test_answers_have_the_boxes_that_predict_gives(service, run, photos):
    """Pictures of other shapes than the input's are filled up, here and there alike."""
    names = ("cat.png", "moon.jpg", "camera.png")
    answer = post_files(service.url, "/v1/predict", [(name, photos[name]) for name in names], min_score="1")
    assert answer.status == 200
    predictor = Predictor.from_run(run)
    for name, found in zip(names, answer.json["predictions"], strict=True):
        (wanted,) = predictor.predict([photos[name]], min_score=1)
        assert found["size"] == list(wanted.size)
        assert found["classes"] == wanted.classes
        np.testing.assert_allclose(found["boxes"], wanted.json()["boxes"], atol=0.05)
        assert len(found["colours"]) == len(found["boxes"])


def test_a_broken_picture_beside_a_good_one(service, photos):
    answer = post_files(service.url, "/v1/predict", [("a.png", b"none"), ("moon.jpg", photos["moon.jpg"])])
    assert (answer.status, answer.json["failed"]) == (200, 1)
    bad, good = answer.json["predictions"]
    assert (bad["boxes"], bad["scores"], bad["colours"]) == ([], [], [])
    assert bad.keys() == good.keys()


@pytest.mark.skipif(chromium() is None and not os.environ.get("CI"), reason="no chromium on this machine")
def test_the_page_draws_boxes_above_the_least_score(service, photos, tmp_path):
    (tmp_path / "cat.png").write_bytes(photos["cat.png"])
    with open_page(service.url) as (page, troubles):
        page.set_input_files("#file", tmp_path / "cat.png")
        page.wait_for_selector("#boxed:not([hidden])", timeout=60_000)
        counts = []
        for least in ("5", "95"):
            page.fill("#least", least)
            assert page.inner_text("#least-shown") == f"{least} %"
            label = page.get_attribute("#boxes", "aria-label")
            counts.append(int(label.split()[3]))
            shown = page.evaluate("[...document.querySelectorAll('#classes li')].filter((x) => !x.hidden).length")
            assert shown in (counts[-1], 1)  # one line says that nothing was found
        assert counts[0] >= counts[1]
        place = Path(os.environ.get("CROSSCALE_SCREENSHOTS") or tmp_path)
        page.screenshot(path=place / "serve_boxes.png", full_page=True)
        assert troubles == []
