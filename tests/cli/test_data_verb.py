"""`crosscale data` on the digits and on folders it wrote itself."""

import json

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source


def described(capsys, *words):
    assert main(["data", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_digits(capsys):
    result = described(capsys, "digits")
    assert result["classes"] == [str(digit) for digit in range(10)]
    train, val = result["splits"]["train"], result["splits"]["val"]
    assert train["examples"] + val["examples"] == 1797
    assert sum(train["counts"].values()) == train["examples"]
    assert val["examples"] == pytest.approx(1797 / 5, abs=10)
    assert result["written"] is None


def test_table_has_a_line_per_class_and_a_total(capsys):
    assert main(["data", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["label", "class", "train", "val"] for line in lines)
    for digit in range(10):
        assert any(line.split()[:2] == [str(digit), str(digit)] for line in lines)
    assert any("all 10 classes" in line for line in lines)


def test_fraction_moves_examples_to_validation(capsys):
    half = described(capsys, "digits", "--val-fraction", "0.5")["splits"]["val"]["examples"]
    assert half == pytest.approx(1797 / 2, abs=10)


def test_written_folder_holds_the_same_pictures(capsys, tmp_path):
    out = tmp_path / "digits"
    result = described(capsys, "digits", "--write", str(out))
    assert result["written"] == str(out)
    again = described(capsys, str(out))
    assert again["classes"] == result["classes"]
    assert again["splits"] == result["splits"]
    source = open_source("digits", "val")
    record = source[0]
    files = sorted((out / "val" / source.classes[record.target]).glob("*.png"))
    assert len(files) == result["splits"]["val"]["counts"][source.classes[record.target]]
    pictures = [np.asarray(Image.open(file)) for file in files]
    assert any(np.array_equal(picture, record.image) for picture in pictures)


def test_write_needs_a_new_or_empty_place(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["data", "digits", "--write", str(tmp_path)]) == 2
    assert "the folder is not empty" in capsys.readouterr().err
    assert main(["data", "digits", "--write", str(tmp_path / "notes.txt")]) == 2
    assert "a file stands there" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("value", ["0", "1", "-1", "half", "nan"])
def test_fraction_out_of_range(capsys, value):
    assert main(["data", "digits", f"--val-fraction={value}"]) == 2
    assert f"expected a number between 0 and 1, got '{value}'" in capsys.readouterr().err


def test_missing_folder_and_empty_class(capsys, tmp_path):
    assert main(["data", str(tmp_path / "gone")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "dogs" / "a.png")
    assert main(["data", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{tmp_path / 'cats'}: the class folder holds no images" in captured.err
