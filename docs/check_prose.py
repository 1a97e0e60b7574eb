"""Checks the project's English by the rules of docs/style.md, as part of `make lint`.

python -m docs.check_prose [FILE ...]

It reads prose alone: pages without their code, and the comments, docstrings and messages of Python and YAML files. The
terms come from the tables of docs/style.md; the patterns of sentences stand in `SENTENCES`. Exit status 1 names each
file, line and rule.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
STYLE = ROOT / "docs" / "style.md"
_START = r"(?:^|(?<=[.;:?] ))"  # of a sentence, or of what follows a colon


class Rule(NamedTuple):
    """A pattern of text, and what to write in its place."""

    pattern: re.Pattern[str]
    hint: str


class Passage(NamedTuple):
    """Prose without line breaks, and the line of the file at which it begins."""

    line: int
    text: str


SENTENCES = (
    Rule(
        re.compile(_START + r"[A-Z][a-z]+(?:ed|own|ept|eft) (?:are|is)\b"), "start with the subject, not the participle"
    ),
    Rule(re.compile(_START + r"Of (?!course)[a-z]"), "start with the subject, not with 'Of ...'"),
    Rule(re.compile(r"\b[Ww]hat [^.,;:()]{1,40}, (?:is|are)\b"), "say what it is, without 'what ..., is'"),
    Rule(re.compile(r", likewise(?=[.;)])"), "write the clause out instead of 'likewise'"),
    Rule(re.compile(r"\bis the \w+s'(?=[.,;)]|$)"), "name the noun that the possessive belongs to"),
    Rule(re.compile(r"\bbesides(?=[.:;)]|$)"), "'also' before the verb instead of 'besides' at the end"),
)


def terms() -> list[Rule]:
    """The rules of docs/style.md's table `| write | not |`, with plurals."""
    table = re.search(r"^\| write \| not \|.*\n\|[-|]+\n((?:\|.*\n)+)", STYLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert table is not None
    rules = []
    for row in table[1].splitlines():
        write, wrong = (cell.strip() for cell in row.split("|")[1:3])
        for word in wrong.split(", "):
            pattern = re.compile(rf"(?<![\w.-]){re.escape(word)}s?(?![\w-])", re.IGNORECASE)
            rules.append(Rule(pattern, f"write '{write}'"))
    return rules


def passages(file: Path) -> Iterator[Passage]:
    """The prose of a page, a Python file or a YAML file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        yield from _page(text)
    elif file.suffix == ".py":
        yield from _python(text)
    else:
        yield from _joined([(number, line.lstrip("# ")) for number, line in _comments(text)])


def _page(text: str) -> Iterator[Passage]:
    """Paragraphs, list items and table cells."""
    shown = re.sub(r"^```.*?^```|<!--.*?-->", lambda code: "\n" * code[0].count("\n"), text, flags=re.M | re.S)
    shown = re.sub(r"`[^`\n]*`", "CODE", shown)
    shown = re.sub(r"\]\([^)\n]*\)", "]", shown)
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(shown.splitlines(), 1):
        if re.match(r"\s*(?:[-*#|>]|\d+\.|$)", line):  # a new item, cell, heading, or the end of a paragraph
            yield from _joined(lines)
            lines = []
        if line.lstrip().startswith("|"):
            yield from (Passage(number, cell.strip()) for cell in line.split("|") if cell.strip())
        elif line.strip():
            lines.append((number, line.strip().lstrip("-*# ")))
    yield from _joined(lines)


def _python(text: str) -> Iterator[Passage]:
    """Docstrings and messages by paragraph, and comments."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            offset = node.lineno
            for paragraph in re.split(r"\n\s*\n", node.value):
                yield Passage(offset, " ".join(re.sub(r"`[^`]*`", "CODE", paragraph).split()))
                offset += paragraph.count("\n") + 2
    comments = [
        (token.start[0], token.string.lstrip("# "))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    yield from _joined(comments)


def _comments(text: str) -> list[tuple[int, str]]:
    found = [(number, re.search(r"(?:^|\s)#(.*)", line)) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, match[1]) for number, match in found if match]


def _joined(lines: list[tuple[int, str]]) -> Iterator[Passage]:
    """Lines that follow one another as one passage."""
    start, parts, last = 0, [], -1
    for number, line in lines:
        if parts and number != last + 1:
            yield Passage(start, " ".join(parts))
            parts = []
        start = number if not parts else start
        parts.append(re.sub(r"`[^`]*`", "CODE", line).strip())
        last = number
    if parts:
        yield Passage(start, " ".join(parts))


def problems(text: str, rules: Sequence[Rule]) -> list[str]:
    """What the rules say of a piece of prose, one line each."""
    return [f"'{match[0]}': {rule.hint}" for rule in rules for match in rule.pattern.finditer(text)]


def prose_files() -> list[Path]:
    """The pages, the package and the recipes."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(page for page in pages if page != STYLE) + sorted(
        file for pattern in ("*.py", "*.yaml") for file in (ROOT / "crosscale").rglob(pattern)
    )


def main(files: list[str]) -> int:
    """Prints the problems. Returns the exit status."""
    count, rules = 0, [*SENTENCES, *terms()]
    for file in map(Path, files) if files else prose_files():
        for passage in passages(file):
            for problem in problems(passage.text, rules):
                print(f"{file.resolve().relative_to(ROOT)}:{passage.line}: {problem}")
                count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
