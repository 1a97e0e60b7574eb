"""The service's page as a validator reads it: no picture without a source, no label for two controls."""

from html.parser import HTMLParser
from importlib.resources import files

CONTROLS = {"input", "select", "textarea", "button", "meter", "progress"}


class Markup(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.sourceless: list[str] = []
        self.labels: list[int] = []
        self.named: list[str] = []
        self.ids: set[str] = set()
        self._inside = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.ids |= {given["id"]} if given.get("id") else set()
        if tag == "img" and not given.get("src"):
            self.sourceless.append(str(given))
        if tag == "label":
            self._inside += 1
            self.labels.append(0)
            self.named += [given["for"]] if given.get("for") else []
        if tag in CONTROLS and self._inside:
            self.labels[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag == "label"


def test_the_markup_of_the_page() -> None:
    found = Markup(files("crosscale.serve").joinpath("page.html").read_text(encoding="utf-8"))
    assert found.sourceless == []
    assert found.labels
    assert max(found.labels) <= 1
    assert len(set(found.named)) == len(found.named)
    assert set(found.named) <= found.ids
