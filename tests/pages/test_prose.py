"""The rules of docs/style.md: each finds the sentence that it is there for, and lets the better one pass."""

import re

import pytest

from docs.check_prose import SENTENCES, STYLE, Passage, main, passages, problems, terms

TEXT = STYLE.read_text(encoding="utf-8")
PAIRS = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", TEXT.split("| before | after |")[1].split("\n## ")[0], re.MULTILINE)


@pytest.mark.parametrize(("before", "after"), PAIRS[1:] if set(PAIRS[0][0]) == {"-"} else PAIRS)
def test_an_example_of_the_page(before, after):
    assert problems(before, SENTENCES)
    assert not problems(after, SENTENCES)


def test_every_rule_has_an_example():
    found = [rule for rule in SENTENCES if any(rule.pattern.search(before) for before, _ in PAIRS)]
    assert found == list(SENTENCES)


def test_terms_are_those_of_the_table():
    rules = terms()
    assert problems("a directory of Directories", rules) == [
        "'directory': write 'folder'",
        "'Directories': write 'folder'",
    ]
    assert not problems("a folder, hub-datasets, learned_names and one-directory", rules)


def test_the_prose_of_a_file(tmp_path, monkeypatch, capsys):
    python = tmp_path / "a.py"
    python.write_text(
        '"""One.\n\nA directory."""\n\nx = "directory"  # a directory\n# of `directory`\nraise E("no dataset here")\n'
    )
    assert list(passages(python)) == [
        Passage(1, "One."),
        Passage(3, "A directory."),
        Passage(7, "no dataset here"),
        Passage(5, "a directory of CODE"),
    ]
    page = tmp_path / "a.md"
    page.write_text("A `directory`\nof text.\n\n```sh\ndirectory\n```\n\n- a directory\n\n| a | b c |\n")
    assert list(passages(page)) == [
        Passage(1, "A CODE of text."),
        Passage(8, "a directory"),
        Passage(10, "a"),
        Passage(10, "b c"),
    ]
    monkeypatch.setattr("docs.check_prose.ROOT", tmp_path)
    assert main([str(page)]) == 1
    assert capsys.readouterr().out == "a.md:8: 'directory': write 'folder'\n"
