"""A picture on standard input, in place of a file: the same answer, and one line where there is none."""

import io
import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from crosscale.cli import standard_input
from crosscale.cli.main import main
from crosscale.cli.predict import find_images
from crosscale.data import open_source
from crosscale.errors import RequestError


@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("digit") / "three.png"
    Image.fromarray(open_source("digits", "val")[3].image).save(file)
    return file


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def sent(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return sent


def test_predict_says_of_it_what_it_says_of_the_file(capsys, tiny_run, digit, send):
    send(digit.read_bytes())
    assert main(["predict", "--run", str(tiny_run), "-", str(digit), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["predictions"]
    assert (first.pop("source"), second.pop("source")) == ("-", str(digit))
    assert first == second


@pytest.mark.slow
def test_explain_draws_and_embed_writes_it(capsys, tiny_run, digit, send, tmp_path):
    import numpy as np

    send(digit.read_bytes())
    assert main(["explain", "--run", str(tiny_run), "-", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "stdin.png").stat().st_size > 1000
    send(digit.read_bytes())
    assert main(["embed", "--run", str(tiny_run), "-", "--output", str(tmp_path / "f.npz")]) == 0
    assert np.load(tmp_path / "f.npz")["paths"].tolist() == ["-"]


@pytest.mark.slow
def test_results_of_it_go_into_a_folder_and_a_file(tiny_run, digit, send, tmp_path):
    for place in ("folder", "one.csv"):
        send(digit.read_bytes())
        assert main(["predict", "--run", str(tiny_run), "-", "--output", str(tmp_path / place)]) == 0
    assert (tmp_path / "folder" / "results.csv").read_text().splitlines()[1].startswith("-,")
    assert (tmp_path / "one.csv").read_text().splitlines()[1].startswith("-,")


@pytest.mark.slow
def test_what_is_no_picture_is_told_as_of_a_file(capsys, tiny_run, send):
    send(b"no picture")
    assert main(["predict", "--run", str(tiny_run), "-"]) == 1
    assert "crosscale predict: -: not an image in a format that Pillow reads" in capsys.readouterr().err


def refused(*words: str) -> str:
    with pytest.raises(RequestError) as caught:
        find_images(list(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_and_too_much_are_one_line(send, monkeypatch):
    send(b"")
    assert refused("-").startswith("-: nothing came on standard input")
    monkeypatch.setattr(standard_input, "_MOST_BYTES", 1 << 20)
    send(b"x" * (1 << 21))
    assert "more than 1 MiB" in refused("-")
    assert refused("-", "a.png", "-") == "-: standard input holds one picture; name it once"
    monkeypatch.setattr(sys, "stdin", None)  # as after `<&-`
    assert "there is no standard input" in refused("-")


@pytest.fixture
def terminal() -> Iterator[int]:
    ours, theirs = pty.openpty()
    yield theirs
    os.close(ours)


def test_a_terminal_is_one_line_and_not_waited_for(terminal, monkeypatch):
    with os.fdopen(terminal) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert "standard input is a terminal; send a picture, as in crosscale predict - < photo.jpg" in refused("-")


def test_what_asks_for_files_refuses_it(capsys, tiny_run, send, tmp_path):
    send(b"")
    words = ["predict", "--run", str(tiny_run), "-"]
    assert main([*words, "--sort-into", str(tmp_path)]) == 2
    assert "-: --sort-into copies files" in capsys.readouterr().err
    assert main([*words, "--coordinator", "a:1", "--num-processes", "2", "--process-id", "0"]) == 2
    assert "-: several processes read files" in capsys.readouterr().err


def test_a_file_of_that_name_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-").write_bytes(b"x")
    assert find_images(["./-"]) == [Path("-")]
