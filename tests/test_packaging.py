"""What the package says of itself: one version, declared dependencies, extras that error lines and pages name."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml

import crosscale
from tests.test_architecture import FILES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *FILES]
# Given by another requirement, or by the project's own peers in a benchmark that says what it lacks.
ELSEWHERE = {
    "timm": "crosscale bench --against timm asks for it",
    "vit_pytorch": "crosscale bench --against vit_pytorch asks for it",
    "jaxlib": "jax",
    "markupsafe": "jinja2, which hands its strings out",
}


def named(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == crosscale.__version__
    assert PROJECT["license"] == citation["license"]


def test_the_changelog_begins_with_what_is_coming_or_with_this_version():
    titles = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles, "no section"
    name, date = titles[0]
    assert name == "Unreleased" or (name == crosscale.__version__ and re.fullmatch(r"\d{4}-\d\d-\d\d", date))


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_extras_that_are_named_exist(path):
    for extra in re.findall(r"crosscale\[([\w,-]+)\]'", path.read_text()):
        assert set(extra.split(",")) <= set(EXTRAS), f"{path.name}: no extra {extra}"


def test_every_extra_is_a_row_of_the_readme():
    rows = re.findall(r"^\| `([\w-]+)` \|.*\|.*\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(EXTRAS) - {"dev", "docs", "parity"} == set(rows) & set(EXTRAS)


def modules(path) -> set[str]:
    """The top-level modules that a file imports from outside the package and the standard library."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found - set(sys.stdlib_module_names) - {"crosscale", *ELSEWHERE}


def test_what_is_imported_is_declared():
    declared = {named(entry) for entries in (PROJECT["dependencies"], *EXTRAS.values()) for entry in entries}
    owners = packages_distributions()
    # Not installed by the dev extra, which the tests run with.
    absent = {"torch": ["torch"], "pillow_heif": ["pillow-heif"], "nvidia": ["nvidia-nvimgcodec-cu12"]}
    absent |= {"mlflow": ["mlflow-skinny"]}
    undeclared = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in FILES
        for module in modules(path)
        if not {named(name) for name in absent.get(module) or owners.get(module, [module])} & declared
    }
    assert not undeclared


def test_the_hosted_workflow_is_the_script():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-1] == "bash .ci/run"
    script = (ROOT / ".ci/run").read_text()
    assert all(f"make {target}" in script for target in ("lint", "test", "slow", "parity", "dist"))
    (version,) = (step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {}))
    assert PROJECT["requires-python"] == f">={version}"


def test_issue_forms_are_forms():
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(form)
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids)) > 1


def test_modules_are_reached_from_the_package_alone():
    """As the pages write it, `crosscale.export.export` and the like after `import crosscale`, in a fresh process."""
    program = "import crosscale; print(crosscale.export.export.__name__, crosscale.explain.attention.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["export", "attention"]


def test_a_star_takes_what_is_public():
    assert set(crosscale.__all__) == {"__version__", *crosscale._HOMES, *crosscale._MODULES}
