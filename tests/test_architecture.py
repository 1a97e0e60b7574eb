"""The rules of the tree: who may import whom, how long files and functions are, what `import crosscale` costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "crosscale"
RANKS = {
    "errors": -1, "ranges": 0, "contracts": 0, "trees": 0, "runtime": 0, "draws": 0,
    "layers": 1, "weights": 1, "data": 1, "typed": 1, "cluster": 1,
    "artifact": 2, "models": 2, "tasks": 3, "engine": 4,
    "pretrained": 5, "compat": 5, "explain": 5, "measure": 5, "recipe": 5, "recipes": 5,
    "predictor": 6,
    "runs": 7, "export": 8,
    "report": 9, "serve": 9, "benchmark": 9, "cli": 10, "__main__": 11, "__init__": 11,
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> list[str]:
    """The parts of the package that a file imports, also inside functions."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "crosscale":
            names += [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [a.name.split(".")[1] for a in node.names if a.name.startswith("crosscale.")]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    own = part(path)
    for name in imported(ast.parse(path.read_text())):
        rank = RANKS.get(name, RANKS["__init__"])  # a name of the top level belongs to the public API
        if name == "__version__":
            continue
        assert name == own or rank < RANKS[own], f"{own} (rank {RANKS[own]}) imports {name} (rank {rank})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_budgets(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{path.name}:{node.lineno} {node.name} has {lines} lines"


# What a task is about, no other part speaks of: it uses the names that the task supplies.
TASK_WORDS = re.compile(r"\b(top1|num_classes|label_smoothing|mixup)\b")
NEUTRAL = ("engine", "runs", "predictor", "serve", "cli", "report")
EXCEPTIONS = {
    "cli/convert.py": "weight files carry a classifier's width, which --num-classes says",
    "cli/models.py": "prints what was published of each preset: top-1 on ImageNet-1k",
    "cli/train.py": "the help names the JSON keys of a classification",
    "cli/validate.py": "the help names the JSON keys of a classification",
    "report/published.py": "published models to stand beside: top-1 on ImageNet-1k",
}


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in NEUTRAL], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_tasks_speak_of_what_is_learnt(path):
    words = set(TASK_WORDS.findall(path.read_text()))
    name = path.relative_to(PACKAGE).as_posix()
    assert bool(words) == (name in EXCEPTIONS), f"{name}: {words or 'no word of a task any more: drop the exception'}"


TASK_FOLDERS = [p.stem for p in (PACKAGE / "tasks").iterdir() if p.stem in ("classification", "regression")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_tasks_are_made_by_their_registry_alone(path):
    if part(path) in ("tasks", "compat", "benchmark"):
        return
    modules = [
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    own = [m for m in modules if m.startswith(tuple(f"crosscale.tasks.{task}" for task in TASK_FOLDERS))]
    assert not own, f"{path.name} imports {own[0]}; ask crosscale.tasks.registry"


def test_a_task_is_one_file_one_head_and_one_source():
    """What regression took besides its line in the registry; the head and the source know nothing of the task."""
    word = re.compile(r"\bregression\b", re.IGNORECASE)
    naming = {path.relative_to(PACKAGE).as_posix() for path in FILES if word.search(path.read_text())}
    # A classification names it where it is given a table of numbers, to say which task would take it.
    assert naming == {"tasks/regression.py", "tasks/registry.py", "tasks/classification/source.py"}
    task = (PACKAGE / "tasks" / "regression.py").read_text()
    assert {"crosscale.data.table", "crosscale.models.heads.regression"} <= set(
        re.findall(r"^from ([\w.]+)", task, re.M)
    )


def test_every_folder_has_a_rank():
    assert {part(p) for p in FILES} <= set(RANKS)


def test_import_is_light():
    code = "import sys, crosscale; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in out.stdout.split()}
    heavy = {
        "grain",
        "orbax",
        "matplotlib",
        "starlette",
        "uvicorn",
        "tensorboardX",
        "torch",
        "sklearn",
        "PIL",
    }
    assert not loaded & heavy
    assert "crosscale.data" not in out.stdout.split()
