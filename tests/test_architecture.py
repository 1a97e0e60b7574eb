"""The rules of the tree: who may import whom, how long files and functions are, what `import crosscale` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "crosscale"
RANKS = {
    "errors": 0, "contracts": 0, "trees": 0, "runtime": 0,
    "layers": 1, "weights": 1, "data": 1, "typed": 1,
    "artifact": 2, "models": 2, "tasks": 3, "engine": 4,
    "pretrained": 5, "compat": 5, "explain": 5, "measure": 5, "recipe": 5, "recipes": 5,
    "predictor": 6, "experiment": 6,
    "build": 7, "export": 7, "report": 7, "benchmark": 7,
    "serve": 8, "cli": 9, "__main__": 10, "__init__": 10,
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
