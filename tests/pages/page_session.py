"""Runs what a page shows, in order and in one process: Python, commands of crosscale, and what is not run here.

What runs here runs in an empty folder with the stand-ins of `stand_ins.py`. The tables below say what is changed or
left out, and why.
"""

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from crosscale.cli import convert
from crosscale.cli.arguments import Parser
from crosscale.cli.main import main
from crosscale.recipe import load
from tests.pages.stand_ins import ROOT, provide

# Every training is a dry run on its data, with batches that the stand-ins fill: tests/test_starting.py, tests/tasks and
# `make dist` train.
DRY = {
    "train.batch_size": "4",
    "validate.batch_size": "4",
    "optimizer.lr_base_batch": "null",
    "schedule.warmup_steps": "null",
}

# Commands that the command's own parser reads and nobody runs, and why.
PARSED = {
    "crosscale serve": "it answers until it is stopped; tests/serve runs it",
    "crosscale demo": "it takes minutes; tests/cli/test_demo.py runs it",
    "crosscale bench": "it takes minutes and other libraries; tests/benchmark runs it",
    "--run runs/streets": "a trained model; tests/tasks/test_segmentation_run.py runs these commands",
    "--run runs/street ": "a trained model; tests/tasks/test_detection_run.py runs these commands",
    "--config objects --data-dir scenes": "the page composes the scenes further down",
    "export --run runs/photos": "docs/export.md exports a smaller model",
    "export --run runs/leaves": "docs/export.md exports a smaller model",
    "--run runs/pairs": "a model of two pictures; tests/test_branch_pictures.py runs these commands",
    "--any-size": "docs/export.md exports a smaller model; tests/export runs it",
    "--format litert": "its extra is not in the environment of the tests",
    "--int8": "it calibrates and measures; tests/export runs it",
    "--compare": "it exports to every format; tests/export runs it",
    "--engine": "needs another program's library; tests/export runs it",
    "crosscale sweep": "it trains many runs; tests/test_sweep.py runs it",
    "--folds": "it trains a run for each fold; tests/test_fold_runs.py runs it",
    "wandb": "an account elsewhere; the tests of trackers have a stand-in for it",
    "--train.batch_size auto": "it tries sizes until the memory is full; the tests of batch sizes run it",
    "--distributed": "a cluster; tests/cluster runs several processes",
    "--coordinator": "several processes; tests/cluster runs them",
}
# Pages whose commands between backticks are parsed alone, and why; their blocks run.
TABLES = {"README.md": "a table of all commands, which run on the pages about them"}
# Libraries that the tests may lack; a block that imports one is compiled, and runs where the library is there.
MAY_LACK = {"ai_edge_litert": "the extra litert", "openvino": "the extra openvino"}
# Sizes in a page's Python that are made smaller.
SMALLER = {"docs/detection.md": {"800, 1216": "64, 96", "[800, 1199], [640, 960]": "[64, 95], [50, 80]"}}
# Programs that are not here, and why; a crosscale command among their words is parsed.
ELSEWHERE = {
    "docker": "builds and runs containers; tests/test_deploy.py lints the file",
    "srun": "Slurm",
    "mpirun": "Open MPI",
    "gcloud": "Cloud TPU",
    "trtexec": "TensorRT, which needs a card",
    "curl": "asks a service that runs; tests/serve does",
    "sh": "measures for minutes; tests/test_accelerator_script.py reads the script",
}
# Words between backticks that name an option or a recipe and are no whole command.
NAMES_AN_OPTION = {
    "crosscale export --format litert",
    "crosscale export --format onnx",
    "crosscale export --format stablehlo",
    "crosscale bench --plot",
    "crosscale data --write",
    "crosscale data scenes --boxes",
    "crosscale validate --split all",
    "crosscale validate --crop-mode",
    "crosscale train --dry-run",
    "crosscale train --config scenes",
    "crosscale recipe explain",
}
_OUTPUTS = ("--output-dir", "--output", "--write", "--sort-into")


class _Parsed(BaseException):
    """Ends a command when its words have been read."""


class Session:
    """One page's folder and names.

    Attributes:
      page: its path from the repository's root.
      folder: where its commands run; the caller makes it the current folder.
      names: what its Python blocks have defined.
    """

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.names: dict[str, Any] = {"__name__": "page"}

    def python(self, source: str, line: int) -> None:
        """Runs a block whose first line is `line` of the page."""
        for size, smaller in SMALLER.get(self.page, {}).items():
            source = source.replace(size, smaller)
        for name in re.findall(r'"([^"\n]+)"', source):
            provide(self.folder, name)
        code = compile("\n" * (line - 1) + source, self.page, "exec")
        if all(find_spec(name) or not re.search(rf"\b{name}\b", source) for name in MAY_LACK):
            exec(code, self.names)

    def shell(self, text: str) -> None:
        """Runs the commands of a block: its lines, or those behind "$ " where there are some; others are output."""
        lines = re.sub(r"\\\n", " ", text).splitlines()
        for line in [line for line in lines if line.startswith("$ ")] or lines:
            words = shlex.split(line.strip().removeprefix("$ ").rstrip("&"), comments=True)
            if words:
                self.command(words)

    def command(self, words: list[str]) -> None:
        """Runs one command, or checks what can be checked of it."""
        while "=" in words[0]:  # a variable of the environment
            words = words[1:]
        if ">" in words:
            place = words.index(">")
            said = self._crosscale(words[1:place])
            (self.folder / words[place + 1]).write_text(said, encoding="utf-8")
        elif words[0] == "crosscale":
            self._crosscale(words[1:])
        elif words[0] in ELSEWHERE:
            for command in _inner_commands(words):
                parse(command)
        else:
            _CHECKS[words[0]](words)

    def _crosscale(self, words: list[str]) -> str:
        """Runs `crosscale WORDS` and gives what it printed."""
        if any(mark in shlex.join(["crosscale", *words]) for mark in PARSED):
            parse(words)
            return ""
        written = convert._parser(words[1:]).parse(words[1:]).files[-1] if words[0] == "convert" else None
        for before, word in zip(["", *words], words, strict=False):
            if word != written and (before not in _OUTPUTS or "--resume" in words):
                provide(self.folder, word)
        if words[0] == "train" and "--help" not in words:
            words = self._shortened(words)
        said, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            status = main(words)
        assert status == 0, f"crosscale {shlex.join(words)} ended with status {status}:\n{told.getvalue()}"
        return said.getvalue()

    def _shortened(self, words: list[str]) -> list[str]:
        """A training as a dry run."""
        sizes = DRY if "--data-dir" in words else {}
        extra = [f"--{key}={value}" for key, value in sizes.items() if f"--{key}" not in words]
        return [*words, *extra, *([] if "--dry-run" in words else ["--dry-run"])]

    def yaml(self, text: str) -> None:
        """A part of a recipe is one that `train` takes; of another program's file, the command in it is parsed."""
        content = yaml.safe_load(text)
        if "apiVersion" in content:
            for command in _inner_commands(shlex.split(" ".join(_strings(content)))):
                parse(command)
        else:
            file = self.folder / "part.yaml"
            file.write_text(text, encoding="utf-8")
            load(file)

    def table(self, text: str) -> None:
        """A table is one that the readers take; the pictures that it names are made."""
        from crosscale.data.table_rows import read_table

        file = self.folder / "shown.csv"
        file.write_text(text, encoding="utf-8")
        table = read_table(file, "labels")
        assert len(table.rows) > 1


def parse(words: list[str]) -> None:
    """Has the command's own parser read `crosscale WORDS`. Raises AssertionError where it refuses them."""
    read = Parser.parse

    def stop(parser: Parser, argv: Any) -> Any:
        read(parser, argv)
        raise _Parsed

    told = io.StringIO()
    with patch.object(Parser, "parse", stop), contextlib.redirect_stderr(told):
        try:
            main(words)
        except _Parsed:
            return
    raise AssertionError(f"crosscale {shlex.join(words)}: {told.getvalue()}")


def _strings(content: Any) -> Iterator[str]:
    """The texts in a YAML file that hold a command."""
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _strings(part)
    elif isinstance(content, str) and "crosscale " in content:
        yield content


def _inner_commands(words: list[str]) -> list[list[str]]:
    """The words behind each `crosscale`, which another program starts."""
    text = [part for word in words for part in (shlex.split(word) if "crosscale " in word else [word])]
    starts = [place for place, word in enumerate(text) if word == "crosscale" and text[place + 1 : place + 2] > [""]]
    found = [text[start + 1 : stop] for start, stop in zip(starts, [*starts, len(text)][1:], strict=False)]
    return [["0" if word.startswith("$") else word for word in command] for command in found]


def _check_extra(words: list[str]) -> None:
    """`pip install` names the package, a clone, another package, or extras that pyproject.toml has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words[2:]:
        named = re.fullmatch(r"(?:crosscale|\.)\[(.*)\]", word)
        missing = set(named[1].split(",")) - set(extras) if named else set()
        assert not missing, f"pip install names no extra of ours: {missing}"


def _check_target(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in words[1:]:
        assert re.search(rf"^{re.escape(target)}:", text, re.MULTILINE), f"the Makefile has no target {target}"


def _check_module(words: list[str]) -> None:
    """`python -m MODULE` or `python FILE` is there."""
    if words[1] == "-m":
        assert find_spec(words[2]), f"no module {words[2]}"
    else:
        assert (ROOT / words[1]).is_file(), f"no file {words[1]}"


def _check_files(words: list[str]) -> None:
    for word in words[1:]:
        assert not word.endswith(".py") or (ROOT / word).is_file(), f"no file {word}"


_CHECKS = {"pip": _check_extra, "make": _check_target, "python": _check_module, "pytest": _check_files}
