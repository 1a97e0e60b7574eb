"""The documentation site's sources: every public name and page is in it, and its link check finds what is broken."""

import importlib
import inspect

import pytest
import yaml

import crosscale
from docs.build_site import COPIED, PAGES, REFERENCE, ROOT, broken_links, home, linked

NAMES = {name for names in REFERENCE.values() for name in names}


def public(module: str) -> set[str]:
    """What a module offers under its own name: what `__all__` lists, or the package's own functions and classes."""
    there = importlib.import_module(f"crosscale.{module}")
    names = getattr(there, "__all__", None) or [name for name in dir(there) if not name.startswith("_")]
    mine = {name for name in names if str(getattr(getattr(there, name), "__module__", "")).startswith("crosscale.")}
    folder = hasattr(there, "__path__")
    return {f"{module}.{name}" for name in mine if folder or getattr(there, name).__module__ == f"crosscale.{module}"}


def test_every_public_name_is_in_the_reference():
    wanted = set(crosscale._HOMES)
    for module in ("data", "explain", "export", "predictor"):
        wanted |= public(module)
    assert wanted <= NAMES, wanted - NAMES
    assert {name for name in NAMES if name.startswith("measure.")} <= public("measure")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_public_name_has_a_docstring_where_the_reference_looks(name):
    module, _, last = home(name).rpartition(".")
    thing = getattr(importlib.import_module(module), last)
    assert (inspect.getdoc(thing) or "").strip(), f"{name} says nothing of itself"


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def files(entry):
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(files, entry.values() if isinstance(entry, dict) else entry))

    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    generated = {f"reference/{name}.md" for name in ("python", "recipe_keys", "command_line")}
    assert files(settings["nav"]) == written | set(COPIED.values()) | generated


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a><a href="b.html#gone">y</a><img src="none.png">')
    (tmp_path / "b.html").write_text('<h2 id="there">x</h2><a href="https://example.org/">z</a>')
    assert broken_links(tmp_path) == ["a.html: b.html#gone", "a.html: none.png"]


def test_names_of_pages_become_links(tmp_path, monkeypatch):
    monkeypatch.setattr("docs.build_site.PAGES", tmp_path)
    (tmp_path / "guides").mkdir()
    (tmp_path / "data.md").touch()
    assert linked("see `docs/data.md`, `docs/none.md`", tmp_path / "guides" / "x.md") == (
        "see [`docs/data.md`](../data.md), `docs/none.md`"
    )
    assert PAGES.name == "pages"
