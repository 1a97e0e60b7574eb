"""`crosscale demo`: the commands it shows are run, and leave what it names."""

import json
from pathlib import Path

import pytest

from crosscale.cli.demo import PICTURES
from crosscale.cli.main import main


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "run-images").mkdir()
    assert main(["demo", "--output-dir", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'run-images'}: is there already; choose another --output-dir" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_that_fails_ends_it(tmp_path, capfd):
    assert main(["demo", "--output-dir", str(tmp_path / "run"), "--epochs", "-1"]) == 2
    shown = capfd.readouterr().err.strip().splitlines()
    assert shown[0].startswith("$ crosscale train --config digits --train.epochs -1")
    assert "train.epochs" in shown[-1]
    assert "$ crosscale validate" not in "".join(shown)


def test_masks_go_with_boxes_alone(tmp_path, capsys):
    assert main(["demo", "segment", "--masks", "--output-dir", str(tmp_path / "run")]) == 2
    assert "--masks goes with crosscale demo detect" in capsys.readouterr().err


@pytest.mark.slow
def test_it_ends_with_a_page(tmp_path, capfd):
    assert main(["demo", "--epochs", "1", "--output-dir", str(tmp_path / "run"), "--json"]) == 0
    captured = capfd.readouterr()
    result = json.loads(captured.out)
    assert Path(result["page"]).is_file()
    assert len(result["next"]) == 3
    shown = [line.split() for line in captured.err.splitlines() if line.startswith("$ crosscale ")]
    assert [words[2] for words in shown] == ["train", "validate", "data", "predict"]
    assert sum(word.startswith(result["pictures"]) for word in shown[-1]) == PICTURES
