"""The notebooks in examples/ run as they are, but for less data, fewer epochs and narrow models."""

import re
import runpy
from pathlib import Path

import pytest

from tests.pages.stand_ins import ROOT

NOTEBOOKS = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
FEW = {'PICTURES = {"train": 256, "val": 32}': 'PICTURES = {"train": 8, "val": 2}', "EPOCHS = 12": "EPOCHS = 1"}
# What is made smaller: a line of a notebook, and what stands in its place.
SMALLER = {
    "detect": FEW,
    "explain_scales": {"EPOCHS = 10": "EPOCHS = 1"},
    "fine_tune": {"EPOCHS = 3": "EPOCHS = 1", "SHARE = 0.1": "SHARE = 0.03"},
    "from_pytorch": {"EPOCHS = 15": "EPOCHS = 4"},
    "own_fusion": {"EPOCHS = 10": "EPOCHS = 1"},
    "segment": FEW,
    "timm_weights": {},
}
BATCH = {"detect": "--train.batch_size 4", "segment": "--train.batch_size 4"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, narrow: Path) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    for line, smaller in SMALLER[name].items():
        assert text.count(f"{line}") == 1, f"{name} has no line {line}"
        text = text.replace(line, smaller)
    if name in BATCH:
        text = text.replace("--train.eval_every", f"{BATCH[name]} --train.eval_every")
    Path("notebook.py").write_text(text, encoding="utf-8")
    runpy.run_path("notebook.py", run_name="__main__")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_says_where_it_runs_and_guards_versions(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert re.search(r"^# # .+\n#\n", text, re.MULTILINE)  # a title
    for words in ("Colab", "Kaggle", "T4", "TPU", 'assert crosscale.__version__.startswith("0.1.")'):
        assert words in text, words
    assert "# %%" in text
    assert "!" not in re.sub(r"^# .*$|!=|![^\n]*\"", "", text, flags=re.MULTILINE)  # a magic would not run as Python


def test_every_notebook_is_listed() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`examples/(\w+)\.py`", page)) == set(NOTEBOOKS) == set(SMALLER)
