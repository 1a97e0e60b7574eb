"""Every block of code and every command on the pages runs, in the order in which a reader meets them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Document, Example, Region
from sybil.parsers.markdown import CodeBlockParser

from tests.pages.page_session import NAMES_AN_OPTION, SMALLER, TABLES, Session, parse
from tests.pages.stand_ins import ROOT

PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
# Pages that compile nothing worth mentioning; the others are slow.
QUICK = (
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/clusters.md",
    "docs/guides/deploy.md",
    "docs/notebooks.md",
    "docs/performance.md",
    "docs/serve.md",
    "docs/style.md",
)
SHELL = ("console", "sh", "bash")
# Blocks that hold nothing to run.
SHOWN = ("text",)


class Commands:
    """Finds the commands between backticks, outside the blocks."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, document: Document) -> Iterator[Region]:
        blank = re.sub(r"^```.*?^```", lambda match: " " * len(match[0]), document.text, flags=re.M | re.S)
        for match in re.finditer(r"`((?:crosscale|make|python|pip install) [^`\n]+)`", blank):
            words = shlex.split(match[1])
            if match[1] not in NAMES_AN_OPTION and (words[0] != "crosscale" or len(words) > 2):
                yield Region(match.start(), match.end(), match[1], self._run)

    def _run(self, example: Example) -> None:
        words = shlex.split(example.parsed)
        if self.session.page in TABLES and words[0] == "crosscale":
            parse(words[1:])
        else:
            self.session.shell(example.parsed)


def document_of(page: str, session: Session) -> Document:
    """The page's blocks and commands, each with what runs it."""

    def block(language, run):
        return CodeBlockParser(language, run)

    parsers = [block(language, lambda example: session.shell(example.parsed)) for language in SHELL]
    parsers += [
        block("python", lambda example: session.python(example.parsed, example.line + 1)),
        block("yaml", lambda example: session.yaml(example.parsed)),
        block("csv", lambda example: session.table(example.parsed)),
        Commands(session),
    ]
    return Document.parse(str(ROOT / page), *parsers)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page in QUICK else pytest.mark.slow) for page in PAGES]
)
def test_a_page_s_blocks_run(page: str, narrow: Path) -> None:
    for example in document_of(page, Session(page, narrow)):
        example.evaluate()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page: str) -> None:
    """So that none is passed over."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language in re.findall(r"^ *```(.*)$", text, re.MULTILINE)[::2]:
        assert language in (*SHELL, *SHOWN, "python", "yaml", "csv"), f"{page}: a block of '{language}'"
    assert not re.search(r"\n\n    (?!\s*[-*\d])\S", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)), page


def test_the_tables_name_what_is_there() -> None:
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert set(TABLES) | set(SMALLER) | set(QUICK) <= set(PAGES)
    for command in NAMES_AN_OPTION:
        assert f"`{command}`" in text, f"no page names {command} any more"
