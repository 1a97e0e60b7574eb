"""A served segmentation: masks in the answer, and the page that draws them."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, open_page
from client import post_files, serving
from PIL import Image

from crosscale.contracts import InputSpec
from crosscale.predictor import Predictor
from tests.seeded import seeded_run

OPTIONS = {
    "img_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "group_size": 4, "interval": [2, 1],
    "patch_size": [4, 8], "merge_size": [[2, 4]], "neck_channels": 8, "head_channels": 8,
}  # fmt: skip
CLASSES = ("ground", "fur", "sky")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    options = {"palette": [[90, 90, 90], [255, 0, 0], [0, 255, 0]], "scale": [256, 64], "reduce_zero_label": None}
    told = {"input_spec": InputSpec(size=(64, 64)), "task": "segmentation", "task_options": options}
    return seeded_run(tmp_path_factory.mktemp("masks"), "semantic_fpn_crossformer", OPTIONS, CLASSES, **told)


@pytest.fixture(scope="module")
def service(run):
    with serving(run) as found:
        yield found


@pytest.mark.slow
def test_answers_have_the_masks_of_pictures_of_any_shape(service, run, photos):
    names = ("cat.png", "moon.jpg", "camera.png")
    answer = post_files(service.url, "/v1/predict", [(name, photos[name]) for name in names])
    assert answer.status == 200
    body = answer.json
    predictor = Predictor.from_run(run)
    for name, found in zip(names, body["predictions"], strict=True):
        (wanted,) = predictor.predict([photos[name]])
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"]))))
        assert mask.shape == Image.open(io.BytesIO(photos[name])).size[::-1]
        np.testing.assert_array_equal(mask, wanted.mask)
        pairs = np.array(found["runs"]).reshape(-1, 2)
        np.testing.assert_array_equal(np.repeat(pairs[:, 0], pairs[:, 1]), mask.ravel())
        assert found["classes"] == [CLASSES[label] for label, _ in wanted.areas]
        assert len(found["colours"]) == len(found["classes"])


@pytest.mark.slow
def test_a_broken_picture_beside_a_good_one(service, photos):
    answer = post_files(service.url, "/v1/predict", [("a.png", b"none"), ("moon.jpg", photos["moon.jpg"])])
    assert (answer.status, answer.json["failed"]) == (200, 1)
    bad, good = answer.json["predictions"]
    assert (bad["mask"], bad["runs"], bad["colours"]) == (None, [], [])
    assert bad.keys() == good.keys()


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None and not os.environ.get("CI"), reason="no chromium on this machine")
def test_the_page_draws_the_mask_with_its_legend(service, photos, tmp_path):
    (tmp_path / "cat.png").write_bytes(photos["cat.png"])

    def pixels(page):
        return np.array(
            page.evaluate(
                """() => {
                  const canvas = document.querySelector("#mask");
                  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
                }"""
            )
        ).reshape(-1, 4)[:, :3]

    with open_page(service.url) as (page, troubles):
        page.set_input_files("#file", tmp_path / "cat.png")
        page.wait_for_selector("#labelled:not([hidden])", timeout=60_000)
        swatches = page.locator("#classes .swatch")
        assert swatches.count() == page.locator("#classes li").count() > 0
        page.fill("#opacity", "0")
        original = np.asarray(Image.open(tmp_path / "cat.png").convert("RGB")).reshape(-1, 3)
        assert np.abs(pixels(page).astype(int) - original).max() <= 2
        page.fill("#opacity", "100")
        assert {tuple(colour) for colour in np.unique(pixels(page), axis=0)} <= {(90, 90, 90), (255, 0, 0), (0, 255, 0)}
        assert page.inner_text("#opaque") == "100 %"
        place = Path(os.environ.get("CROSSCALE_SCREENSHOTS") or tmp_path)
        page.fill("#opacity", "55")
        page.screenshot(path=place / "serve_masks.png", full_page=True)
        assert troubles == []
