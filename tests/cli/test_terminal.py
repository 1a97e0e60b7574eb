"""What commands show on a terminal: progress, in colours that NO_COLOR turns off."""

import os
import re
import subprocess
import sys
import time

import pytest

from crosscale.cli import output
from crosscale.cli.main import main
from crosscale.cli.output import progress_bar
from crosscale.models.registry import list_models
from tests.reliability.runs import words as recipe_words

pty = pytest.importorskip("pty", reason="needs pseudo-terminals")

SGR = re.compile(r"\x1b\[([0-9;]*)m")


def on_terminal(*words, until=None, **environment):
    """What `crosscale words...` writes to a terminal of 256 colours; interrupted once that holds `until`."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "crosscale", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(theirs)
    said, begun = b"", time.monotonic()
    while time.monotonic() < begun + 120:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not read:
            break
        said += read
        if until is not None and until.encode() in said:
            process.terminate()
            until = None
    os.close(ours)
    text = said.decode()
    assert process.wait(60) == 0, text
    return text


def has_colours(text):
    """Whether a sequence sets a foreground or background colour (30-49 and 90-107)."""
    codes = [int(code) for found in SGR.findall(text) for code in found.split(";") if code]
    return any(30 <= code <= 49 or 90 <= code <= 107 for code in codes)


def export(tiny_run, tmp_path):
    return ["export", "--run", tiny_run, "--format", "stablehlo", "--platforms", "cpu", tmp_path / "model.zip"]


def train(tiny_run, tmp_path):
    return ["train", *recipe_words({"train.epochs": "1"}), "--output-dir", tmp_path / "run"]


SEEN = {export: "tracing the model and lowering it to stablehlo", train: "epoch 1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "environment"),
    [
        pytest.param(train, {}, id="train"),
        pytest.param(export, {"NO_COLOR": "1"}, id="export without colours"),
        pytest.param(train, {"NO_COLOR": "1"}, id="train without colours"),
        pytest.param(export, {}, id="export"),
    ],
)
def test_progress_is_shown_in_colours_unless_they_are_turned_off(command, environment, tiny_run, tmp_path):
    text = on_terminal(*command(tiny_run, tmp_path), **environment)
    assert SEEN[command] in text
    assert "\x1b[2K" in text  # a display that redraws its line
    assert has_colours(text) == (not environment), text


@pytest.mark.slow
def test_serve_shows_its_compilation_and_clears_it_away(tiny_run):
    text = on_terminal("serve", "--run", tiny_run, "--port", "0", "--max-batch", "2", until="ready at", NO_COLOR="1")
    assert "compiling" in text
    assert "/3" in text  # batches of 1 and 2, and the maps
    after = text[text.index("ready at") :]
    assert "stopped after 0 answers" in after
    assert "compiling" not in after


def test_without_a_terminal_phases_are_lines(capsys):
    with progress_bar("working", verb="export") as report:
        report(0, 2, "first")
        report(0, 2, "first")
        report(1, 2, "second")
        report(2, 2, "done")
    with progress_bar("counting") as report:
        report(1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "crosscale export: first ...\ncrosscale export: second ...\n"


@pytest.mark.slow
def test_eighty_columns_show_the_time_that_remains(tmp_path):
    text = on_terminal(*train(None, tmp_path), COLUMNS="80", NO_COLOR="1")
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", text) if "images/s" in line]
    assert shown
    for line in shown:
        assert re.search(r"\d+/\d+ \S*\d:\d\d(:\d\d)?\s*$", line), line
        assert len(line.rstrip()) <= 80


def test_eighty_columns_break_no_name(monkeypatch, capsys):
    monkeypatch.setattr(output, "PIPED_WIDTH", 80)
    assert main(["models"]) == 0
    said = capsys.readouterr()
    assert max(map(len, said.out.splitlines())) <= 80
    assert set(said.out.split()) >= set(list_models())
    assert "no room for weights, source" in said.err
