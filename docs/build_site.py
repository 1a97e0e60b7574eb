"""Builds the documentation site: `make docs`, or `python -m docs.build_site` from the repository's root.

The pages of docs/ are copied to build/pages, the reference pages are written beside them from the code, and zensical
makes site/ of both. A warning fails the build, and so does a link of the built pages that leads nowhere.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
PAGES, SITE = ROOT / "build" / "pages", ROOT / "site"
COPIED = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
# The public names, by the heading they stand under; tests/pages/test_site.py holds the list against the package.
REFERENCE = {
    "Models": ["create_model", "list_models", "CrossViT", "CrossFormer", "LayerNorm"],
    "Weights": ["load_pretrained", "load_weights", "save_pretrained", "save_weights"],
    "Words between the parts": ["Features", "InputSpec", "RequestError", "WorkError"],
    "Prediction": ["predictor.Predictor", "predictor.Loaded"],
    "Attention": [
        f"explain.{name}"
        for name in ("attention", "weights", "explain", "describe_attention", "describe_maps", "Explained", "Map")
    ],
    "Costs": [
        f"measure.{name}"
        for name in (
            *("count_costs", "count_parameters", "count_macs", "count_function_macs", "measure_memory"),
            *("Costs", "Memory"),
        )
    ],
    "Data": [
        f"data.{name}"
        for name in (
            *("open_source", "open_image", "write_image_folder", "train_batches", "eval_batches", "steps_per_epoch"),
            *("train_transform", "eval_transform", "Augment", "BatchIterator", "ImageExamples", "ImageFolder"),
            *("BadImage", "JointAugment", "SegmentationExamples", "open_masks", "MaskSource", "check_masks"),
            *("open_objects", "Objects", "ObjectSource", "BoxAugment", "ObjectExamples", "check_objects"),
        )
    ],
    "Exported programs": ["export.export", "export.Exported", "export.choose_engine", "export.Chosen", "export.Trial"],
    "vit-pytorch's constructors": ["compat.vit_pytorch.CrossViT", "compat.vit_pytorch.CrossFormer"],
}


def home(name: str) -> str:
    """The module path under which a public name is defined, which is where its docstring is read."""
    import crosscale

    target: object = crosscale
    *parts, last = name.split(".")
    for part in parts:
        target = getattr(target, part, None) or __import__(f"crosscale.{part}", fromlist=["_"])
    thing = getattr(target, last)
    return f"{thing.__module__}.{thing.__qualname__}"


def python_page() -> str:
    """What mkdocstrings fills: a heading for each public name, and where it is defined."""
    lines = ["# Python", "", "Every public name. Arrays are NHWC; `B` is the batch, `C` the classes or channels.", ""]
    for title, names in REFERENCE.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [
                f"::: {home(name)}",
                "    options:",
                f'      heading: "crosscale.{name}"',
                "      heading_level: 3",
                "",
            ]
    return "\n".join(lines)


def recipe_keys_page() -> str:
    """All keys of a recipe, a table for each section."""
    from crosscale.recipe import recipe_keys, set_by
    from crosscale.tasks.registry import TASKS
    from crosscale.typed import describe, shown

    def cell(text: object) -> str:
        return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    lines = ["# Recipe keys", "", "`crosscale recipe explain KEY` says the same on the command line.", ""]
    section = ""
    for dotted, key in recipe_keys().items():
        if dotted.partition(".")[0] != section:
            section = dotted.partition(".")[0]
            lines += [
                "",
                f"## {section}",
                "",
                "| key | meaning | type and range | default | set by |",
                "|---|---|---|---|---|",
            ]
        doc = key.doc
        if section == "task" and dotted != "task.name":
            field = dotted.partition(".")[2]
            doc = f"{doc} Tasks: {', '.join(task for task, kind in TASKS.items() if hasattr(kind.Options(), field))}."
        allowed = "; ".join(filter(None, (describe(key.type), key.range)))
        recipes = ", ".join(f"{name}: {shown(value)}" for name, value in set_by(dotted).items())
        default = shown(getattr(key.default, "__name__", key.default))
        lines.append(f"| `{dotted}` | {cell(doc)} | {cell(allowed)} | `{cell(default)}` | {cell(recipes)} |")
    return "\n".join(lines) + "\n"


def command_line_page() -> str:
    """The help of every command; the recipe's keys, which `train` lists too, have a page of their own."""
    from crosscale.cli.main import VERBS, main

    lines = ["# Command line", "", "What `crosscale COMMAND --help` prints.", ""]
    for verb, row in {"": None, **VERBS}.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = main([verb, "--help"] if verb else ["--help"])
        assert status == 0, verb
        text = re.sub(r"(?ms)^recipe: \w+:\n.*?(?=^\w)", "", said.getvalue())
        lines += [
            f"## crosscale {verb}".rstrip(),
            "",
            *([f"{row.summary}.", ""] if row else []),
            "```text",
            text.rstrip(),
        ]
        lines += ["```", ""]
    return "\n".join(lines)


def stage() -> None:
    """build/pages: the written pages, with the names of other pages made links, and the generated ones."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for source, name in COPIED.items():
        shutil.copy(ROOT / source, PAGES / name)
    for page in PAGES.rglob("*.md"):
        page.write_text(linked(page.read_text(encoding="utf-8"), page), encoding="utf-8")
    reference = PAGES / "reference"
    reference.mkdir()
    for name, text in {
        "python": python_page(),
        "recipe_keys": recipe_keys_page(),
        "command_line": command_line_page(),
    }.items():
        (reference / f"{name}.md").write_text(text, encoding="utf-8")


def linked(text: str, page: Path) -> str:
    """`docs/data.md` in a page of the site becomes a link to that page."""
    depth = len(page.relative_to(PAGES).parts) - 1

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{match[0].strip('`')}`]({'../' * depth}{name})" if (PAGES / name).is_file() else match[0]

    return re.sub(r"(?<!\[)`docs/([\w/]+\.md)`(?!\])", link, text)


class Links(HTMLParser):
    """The addresses that a page points to, and the names that can be pointed to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.names |= {value for key in ("id", "name") if (value := values.get(key))}
        key = {"a": "href", "link": "href", "img": "src", "script": "src"}.get(tag)
        if key and (value := values.get(key)):
            self.targets.append(value)


def broken_links(site: Path) -> list[str]:
    """Links within the site that lead to no file, or to no place in one."""
    pages = {}
    for path in site.rglob("*.html"):
        pages[path.resolve()] = links = Links()
        links.feed(path.read_text(encoding="utf-8"))
    wrong = []
    for path, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            there = file.is_file() and (not parts.fragment or unquote(parts.fragment) in pages[file].names)
            if not there:
                wrong.append(f"{path.relative_to(site.resolve())}: {target}")
    return sorted(set(wrong))


def main() -> int:
    """Builds and checks. Returns the exit status."""
    stage()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    if done.returncode != 0:
        return done.returncode
    # zensical's --strict does not count what is wrong with a docstring.
    if wrong := [line for line in done.stdout.splitlines() if line.startswith(("griffe:", "mkdocstrings:"))]:
        print(f"{len(wrong)} warnings about docstrings")
        return 1
    wrong = broken_links(SITE)
    print("\n".join([*wrong, f"{len(list(SITE.rglob('*.html')))} pages in {SITE.name}/, {len(wrong)} broken links"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
