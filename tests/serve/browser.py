"""The page in a headless Chromium: what a person does, and pictures of what they see."""

import shutil
from contextlib import contextmanager

WIDE = {"width": 1200, "height": 900}
PHONE = {"width": 390, "height": 844}


def chromium():
    """The browser's path; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def open_page(url, *, viewport=WIDE, scheme="light", touch=False):
    """The page, and a list that fills with errors and with requests to other places."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        context = browser.new_context(viewport=viewport, color_scheme=scheme, has_touch=touch, device_scale_factor=1)
        page = context.new_page()
        troubles = []
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("console", lambda said: troubles.append(f"console: {said.text}") if said.type == "error" else None)
        page.on(
            "request",
            lambda made: (
                troubles.append(f"request: {made.url}") if not made.url.startswith((url, "data:", "blob:")) else None
            ),
        )
        try:
            page.goto(url)
            yield page, troubles
        finally:
            browser.close()
