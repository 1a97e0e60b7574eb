"""`crosscale serve`: what it refuses before it serves."""

import shutil
import socket

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crosscale.cli.main import main


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "one of the arguments --run --model is required"),
        (["--run", "gone"], 2, "--run gone: no such folder"),
        (["--run", "EMPTY"], 2, "not a run folder"),
        (["--run", "RUN", "--prot", "80"], 2, "unknown option '--prot'; did you mean '--port'?"),
        (["--run", "RUN", "--port", "99999"], 2, "ports are 1 to 65535"),
        (["--run", "RUN", "--port", "TAKEN"], 1, "another --port may do"),
        (["--run", "RUN", "--host", "no.such.host.invalid"], 2, "not an address"),
        (["--run", "RUN", "--token-file", "gone.txt"], 2, "--token-file gone.txt: cannot be read"),
        (["--run", "RUN", "--queue", "0"], 2, "whole number of at least 1"),
        (["--model", "crossvit_9_240"], 2, "--model needs --weights FILE"),
    ],
)
def test_wrong_requests_are_one_line(capsys, tiny_run, tmp_path, words, status, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"RUN": str(tiny_run), "EMPTY": str(tmp_path), "TAKEN": str(taken.getsockname()[1])}
        assert main(["serve", *(places.get(word, word) for word in words)]) == status
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("crosscale serve: error: ")
    assert message in last


def test_an_empty_token_file_is_refused(capsys, tiny_run, tmp_path):
    (tmp_path / "token").write_text("\n")
    assert main(["serve", "--run", str(tiny_run), "--token-file", str(tmp_path / "token")]) == 2
    assert "is empty; write the token into it" in capsys.readouterr().err


def test_weights_that_give_no_numbers_end_it_before_it_is_ready(capsys, tiny_run, tmp_path):
    shutil.copytree(tiny_run / "best", tmp_path / "best")
    file = tmp_path / "best" / "model.safetensors"
    weights = {name: np.full_like(value, np.nan) for name, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    assert main(["serve", "--run", str(tmp_path), "--port", "0", "--max-batch", "1"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    *_, before, last = said.err.strip().splitlines()
    assert before == "crosscale serve: compiling for 1 picture at once ..."
    assert last.startswith("crosscale serve: error: ")
    assert f"{file}: the model's outputs are not finite" in last
