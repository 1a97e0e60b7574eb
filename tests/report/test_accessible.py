"""The pages in a browser, light and dark, wide and on a phone: axe-core finds nothing, and nothing is cut or tiny."""

import os
import shutil

import pytest

from crosscale.cli.main import main
from tests.accessible import smallest_text, violations
from tests.serve.browser import PHONE, WIDE, chromium, open_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None and not os.environ.get("CI"),
        reason="no chromium on this machine; apt-get install chromium",
    ),
]


@pytest.fixture(scope="module")
def pages(trained, tmp_path_factory):
    place = tmp_path_factory.mktemp("compared")
    again, compared = shutil.copytree(trained, place / "again"), place / "compare.html"
    assert main(["report", str(trained), str(again), "--output", str(compared)]) == 0
    return {"run": trained / "report.html", "compare": compared}


@pytest.mark.parametrize("name", ["run", "compare"])
@pytest.mark.parametrize(("viewport", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_pages_are_accessible(pages, name, viewport, scheme):
    with open_page(pages[name].as_uri(), viewport=viewport, scheme=scheme) as (page, troubles):
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert smallest_text(page) >= 8
        # A narrow column folds between words, and is not broken into a letter a line.
        heights = page.locator("thead th").evaluate_all("cells => cells.map((cell) => cell.offsetHeight)")
        assert max(heights) < 60
        shown = "dark" if scheme == "dark" else "light"
        assert all(
            image.is_visible() == (f"on-{shown}" in image.get_attribute("class"))
            for image in page.locator(".explained img").all()
        )
        assert troubles == []
