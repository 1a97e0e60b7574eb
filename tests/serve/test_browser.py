"""The page as a person uses it, in a headless Chromium; the pictures of it stay in the test's folder."""

import os
from pathlib import Path

import numpy as np
import pytest
from browser import PHONE, WIDE, chromium, open_page
from client import post_files, serving

from tests.accessible import violations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None and not os.environ.get("CI"),
        reason="no chromium on this machine; apt-get install chromium",
    ),
]

PASTE = """async ([data, kind]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const moved = new DataTransfer();
  moved.items.add(new File([bytes], "moved.png", { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: moved, bubbles: true })
    : new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def service(tiny_run):
    with serving(tiny_run) as found:
        yield found


@pytest.fixture
def cat(photos, tmp_path):
    file = tmp_path / "cat.png"
    file.write_bytes(photos["cat.png"])
    return file


def keep(page, name, folder):
    """A picture of the whole page in $CROSSCALE_SCREENSHOTS, or in the test's folder."""
    place = Path(os.environ.get("CROSSCALE_SCREENSHOTS") or folder)
    place.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=place / name, full_page=True)
    assert (place / name).stat().st_size > 10_000


def colours(page):
    """The pixels of the first map that is shown."""
    return np.array(
        page.evaluate(
            """() => {
              const canvas = document.querySelector("#maps canvas");
              return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
            }"""
        )
    ).reshape(-1, 4)[:, :3]


@pytest.mark.parametrize(("name", "viewport", "scheme"), [("wide", WIDE, "light"), ("phone", PHONE, "dark")])
def test_choose_look_and_slide(service, cat, photos, tmp_path, name, viewport, scheme):
    expected = post_files(service.url, "/v1/explain", [("cat.png", photos["cat.png"])]).json["explanations"][0]
    with open_page(service.url, viewport=viewport, scheme=scheme, touch=name == "phone") as (page, troubles):
        page.set_input_files("#file", cat)
        page.wait_for_selector("#maps canvas")
        assert page.locator("#classes .name").all_inner_texts() == expected["classes"]
        first = float(page.locator("#classes .value").first.inner_text().split()[0])
        assert first == pytest.approx(100 * expected["probabilities"][0], abs=0.06)
        assert page.locator("#maps canvas").count() == 2  # small and large patches
        assert "4 px patches" in page.locator("figcaption").first.inner_text()

        # Of an untrained model the maps are almost even: grey, and said. The rest asks what other maps look like.
        assert expected["maps"][0]["peak"] < 1.5
        assert "almost even: at most 1." in page.locator("figcaption").first.inner_text()
        page.fill("#strength", "100")
        even = colours(page)
        assert (even[:, 0] == even[:, 2]).all()
        page.evaluate("() => { for (const map of state.found.maps) map.peak = 3; drawFigures(); }")
        page.fill("#strength", "0")
        picture = colours(page)
        assert (picture[:, 0] == picture[:, 1]).all()  # a grey digit model sees grey
        page.fill("#strength", "100")
        mapped = colours(page)
        assert (mapped[:, 0] != mapped[:, 2]).any()
        assert page.inner_text("#percent") == "100 %"
        page.select_option("#group", "cross")
        assert page.locator("#maps canvas").first.get_attribute("data-map").startswith("cross/")
        assert (colours(page) != mapped).any()

        assert page.locator("#seen").bounding_box()["width"] > 100  # the crop, untouched
        assert violations(page) == []
        page.fill("#strength", "60")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        for box in page.locator("button:visible, select:visible, #strength").all():
            assert box.bounding_box()["height"] >= 40  # room for a thumb
        keep(page, f"serve_{name}.png", tmp_path)
        assert troubles == []


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_paste_and_drop(service, photos, kind):
    import base64

    with open_page(service.url) as (page, troubles):
        page.wait_for_selector("#served:has-text('classes')")  # a selector: the page's policy forbids eval
        page.evaluate(PASTE, [base64.b64encode(photos["camera.png"]).decode(), kind])
        page.wait_for_selector("#classes li")
        page.wait_for_selector("#status:has-text('answered')")  # said after the maps, which come after the classes
        assert "moved.png" in page.inner_text("#status")
        assert troubles == []


def test_a_bad_file_is_told_and_the_next_one_works(service, cat, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    with open_page(service.url) as (page, troubles):
        page.set_input_files("#file", bad)
        page.wait_for_selector("#status.bad")
        assert "bad.png: not a picture" in page.inner_text("#status")
        assert not page.is_visible("#answer")
        page.set_input_files("#file", cat)
        page.wait_for_selector("#maps canvas")
        assert not page.locator("#status.bad").count()
        assert all("415" in trouble for trouble in troubles)


def test_names_are_text_and_never_markup(service, photos, tmp_path):
    file = tmp_path / "<img src=x onerror=alert(1)>.png"
    file.write_bytes(photos["cat.png"])
    with open_page(service.url) as (page, troubles):
        page.set_input_files("#file", file)
        page.wait_for_selector("#status:has-text('answered')")
        assert "<img src=x" in page.inner_text("#status")
        assert troubles == []


def test_by_keyboard(service, cat):
    with open_page(service.url) as (page, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        page.set_input_files("#file", cat)
        page.wait_for_selector("#maps canvas")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "group"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "strength"
        page.keyboard.press("End")
        assert page.inner_text("#percent") == "100 %"


def test_token(tiny_run, cat, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret")
    with serving(tiny_run, "--token-file", token, "--max-batch", 1) as service, open_page(service.url) as (page, _):
        page.wait_for_selector("#token:visible")
        page.fill("#secret", "s3cret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token", state="hidden")
        page.set_input_files("#file", cat)
        page.wait_for_selector("#maps canvas")
