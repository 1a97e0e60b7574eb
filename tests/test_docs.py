"""What the pages state, where a test can tell: files, commands, recipe keys, ranks, and the walk of one picture."""

import ast
import contextlib
import io
import re
import shlex
from functools import cache

import pytest

from crosscale.cli.main import VERBS, main
from crosscale.recipe import RENAMED, load, recipe_keys, shipped_recipes
from tests.test_architecture import PACKAGE, RANKS, ROOT, part

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
FILES = [path.name for path in ROOT.glob("*.md")] + [
    path.relative_to(ROOT).as_posix()
    for top in ("crosscale", "tests", "docs", "benchmarks", "examples")
    for path in (ROOT / top).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def quoted(text: str) -> list[str]:
    """What stands between single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@by_page
def test_files_that_a_page_names_exist(page):
    for word in quoted(page.read_text()):
        match = re.fullmatch(r"((?:[\w-]+/)*[\w-]+\.(?:py|md|sh))(?:[: ].*)?", word)
        if match is None and (word.endswith(".json") and word.startswith("benchmarks/")):
            match = re.fullmatch(r"(.+)", word)
        if match is not None:
            assert any(f"/{file}".endswith(f"/{match[1]}") for file in FILES), f"{page.name}: no file {match[1]}"


@cache
def options_of(verb: str) -> frozenset[str]:
    """The options that a verb's help names."""

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([verb, "--help"]) == 0
    return frozenset(re.findall(r"(?<![\w-])(--[a-z][\w.-]*)", said.getvalue())) | {f"--{old}" for old in RENAMED}


def commands(text: str) -> list[list[str]]:
    """The words behind `crosscale` of every command that a page shows."""
    joined = text.replace("\\\n", " ")
    lines = [line for block in re.findall(r"```[a-z]*\n(.*?)```", joined, re.DOTALL) for line in block.splitlines()]
    lines += quoted(joined) + re.findall(r"^    (crosscale .*)$", joined, re.MULTILINE)
    found = []
    for line in lines:
        bare = line.split("  #")[0].strip().rstrip("'&")
        match = re.search(r"(?:^|exec |srun |/|'|\$ )crosscale ([a-z]+(?: .*)?)$", bare)
        if match is not None:
            found.append(shlex.split(match[1].replace("'", "") if match[1].count("'") % 2 else match[1], comments=True))
    return found


@by_page
def test_commands_that_a_page_shows_are_known(page):
    for words in commands(page.read_text()):
        assert words[0] in VERBS, f"{page.name}: crosscale {words[0]}"
        for option in (word.split("=")[0] for word in words[1:] if word.startswith("--")):
            known = option in options_of(words[0]) or (words[0] == "train" and option.startswith("--model.options."))
            assert known, f"{page.name}: crosscale {words[0]} has no {option}"


def test_the_commands_are_found():
    found = [words for page in PAGES for words in commands(page.read_text())]
    assert {words[0] for words in found} == set(VERBS)
    assert len(found) > 40


@by_page
def test_recipe_keys_that_a_page_names_exist(page):
    sections = {key.split(".")[0] for key in recipe_keys()}
    for word in quoted(page.read_text()):
        match = re.fullmatch(r"(?P<key>(?P<section>[a-z]+)\.[a-z_]+)(?:: .*|=.*)?", word)
        if match is None or match["section"] not in sections or match["key"].endswith((".py", ".safetensors")):
            continue
        assert match["key"] in recipe_keys() or match["key"] == "model.options", f"{page.name}: no key {match['key']}"


def test_the_table_of_recipes_is_theirs():
    row = r"^\| `(\w+)` \|[^|]*\| ?([^|]*?) ?\| ?([^|]*?) ?\| ?([^|]*?) ?\| ?[^|]*\|$"
    rows = re.findall(row, (ROOT / "docs/recipes.md").read_text(), re.MULTILINE)
    listed = {name: (epochs, batch, rate) for name, epochs, batch, rate in rows if name in shipped_recipes()}
    assert set(listed) == set(shipped_recipes())
    for name, (epochs, batch, rate) in listed.items():
        recipe = load(name)
        if epochs == "see the file":
            continue
        length = f"{recipe.train.steps:,} steps" if recipe.train.steps else str(recipe.train.epochs)
        assert epochs.removesuffix(", two cosines") == length, name
        assert int(batch) == recipe.train.batch_size, name
        base = recipe.optimizer.lr_base_batch or recipe.train.batch_size
        assert float(rate.split(",")[0]) == pytest.approx(
            recipe.optimizer.lr * recipe.train.batch_size / base, rel=0.02
        ), name


def test_the_ranks_are_those_of_the_architecture_test():
    rows = re.findall(r"^\| (-?\d+) \| ((?:`\w+` ?)+)\|", ARCHITECTURE, re.MULTILINE)
    stated = {name: int(rank) for rank, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert stated == {name: rank for name, rank in RANKS.items() if not name.startswith("__")}


def walks() -> list[list[tuple[int, str, str, bool]]]:
    """Of each walk the steps: depth, file, function, whether it was handed down."""
    text = ARCHITECTURE.split("## The walk of one picture")[1].split("\n## ")[0]
    found = []
    for walk in text.split("\n### ")[1:]:
        steps = re.findall(r"^( *)- `([\w/]+\.py):([\w.]+)`(.*)$", walk, re.MULTILINE)
        assert len(steps) == len(re.findall(r"^ *- ", walk, re.MULTILINE))
        found.append([(len(blank) // 2, file, name, "handed down" in rest) for blank, file, name, rest in steps])
    return found


@cache
def source_of(file: str, name: str) -> str:
    """The text of a function, a class, or a method, which may be inherited from the file's own classes."""
    source = (PACKAGE / file).read_text()
    body: list[ast.stmt] = ast.parse(source).body
    node: ast.stmt | None = None
    for word in name.split("."):
        node = next((n for n in body if getattr(n, "name", None) == word), None)
        assert node is not None, f"{file} has no {name}"
        body = getattr(node, "body", [])
    return ast.get_source_segment(source, node) or ""


@pytest.mark.parametrize("steps", walks(), ids=["train", "serve"])
def test_a_walk_never_climbs_back(steps):
    assert len(steps) > 25
    above: list[tuple[str, str]] = []
    for depth, file, name, handed_down in steps:
        del above[depth:]
        assert len(above) == depth, f"{file}:{name} is indented below nothing"
        source_of(file, name)
        if above:
            caller, function = above[-1]
            ranks = RANKS[part(PACKAGE / caller)], RANKS[part(PACKAGE / file)]
            assert ranks[1] <= ranks[0], f"{caller} (rank {ranks[0]}) calls {file} (rank {ranks[1]})"
            called = name.split(".")[-1]
            if not called.startswith("__") and not handed_down:
                assert re.search(rf"\b{called}\b", source_of(caller, function)), (
                    f"{caller}:{function} names no {called}"
                )
        above.append((file, name))


def test_words_with_one_meaning_name_what_is_there():
    for name, file in {
        "Service": "serve/app.py",
        "ServedModel": "serve/served.py",
        "Bounded": "serve/admission.py",
        "ServiceCounts": "serve/counts.py",
        "Meter": "engine/averages.py",
        "Progress": "engine/progress.py",
        "progress_bar": "cli/output.py",
    }.items():
        assert f"`{name}`" in ARCHITECTURE
        holders = [
            f.relative_to(PACKAGE).as_posix()
            for f in PACKAGE.rglob("*.py")
            if re.search(rf"^(class|def) {name}\b", f.read_text(), re.M)
        ]
        assert holders == [file]
