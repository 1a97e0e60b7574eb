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


@pytest.mark.parametrize("value", ["1", "-1", "half", "nan"])
def test_fraction_out_of_range(capsys, value):
    assert main(["data", "digits", f"--val-fraction={value}"]) == 2
    assert f"expected a number from 0 to below 1, got '{value}'" in capsys.readouterr().err


def test_nothing_held_out(capsys):
    splits = described(capsys, "digits", "--val-fraction", "0")["splits"]
    assert (splits["train"]["examples"], splits["val"]["examples"]) == (1797, 0)


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


@pytest.fixture
def labelled(tmp_path):
    """A table of ten pictures: one damaged, two equal ones in two classes, and a third of these held out."""
    lines = ["file;label;split"]
    for i in range(10):
        value = 9 if i in (1, 2, 8) else 20 * i
        Image.fromarray(np.full((6, 4 + i, 3), value, np.uint8)).save(tmp_path / f"{i}.png")
        if i in (1, 2, 8):
            Image.fromarray(np.full((6, 5), value, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png;{'rare' if i in (2, 9) else 'usual'};{'val' if i > 7 else 'train'}")
    (tmp_path / "5.png").write_bytes(b"no picture")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines))
    return table


def test_a_table_is_described_and_its_pictures_are_checked(capsys, labelled):
    found = described(capsys, str(labelled))
    assert found["splits"]["train"]["counts"] == {"rare": 1, "usual": 7}
    assert (found["rarest"], found["commonest"]) == ("rare", "usual")
    assert found["notes"] == ["t.csv: path from 'file', label from 'label', split from 'split'"]
    assert main(["data", str(labelled), "--check", "--json"]) == 1
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["problems"]["lines"] == ["5.png: not an image in a format that Pillow reads"]
    assert (check["pictures"], check["modes"]) == (10, {"RGB": 6, "L": 3})
    assert check["sizes"] == {"smallest": [6, 4], "median": [6, 7], "largest": [6, 13]}
    assert [[place["id"] for place in group] for group in check["leaks"]["groups"]] == [["1.png", "2.png", "8.png"]]
    assert check["disputed"]["count"] == check["equal"]["count"] == 1
    assert main(["data", str(labelled), "--check"]) == 1
    text = capsys.readouterr().out
    assert "rarest to train on: rare (1), usual (7); commonest: usual (7), rare (1)" in text
    assert "1 groups of pictures that are both to train on and held out" in text
    assert "1.png (train, usual), 2.png (train, rare), 8.png (val, usual)" in text
    assert "1 of 10 pictures do not decode:" in text


def test_digits_are_checked_too(capsys):
    check = described(capsys, "digits", "--check")["check"]
    assert (check["pictures"], check["problems"]["count"], check["modes"]) == (1797, 0, {"L": 1797})


def test_columns_are_for_tables(capsys, labelled):
    assert main(["data", str(labelled), "--label-column", "lable"]) == 2
    assert "has no column 'lable'; did you mean 'label'?" in capsys.readouterr().err
    assert main(["data", "digits", "--label-column", "label"]) == 2
    assert "--split-column are for tables, and digits is not one" in capsys.readouterr().err


def test_how_rare_a_class_is_depends_on_the_pictures_to_train_on(capsys, tmp_path):
    """An even held-out part hides nothing."""
    train, val = np.repeat([0, 1], [30, 3]), np.repeat([0, 1], [12, 12])
    images = {f"{split}_images": np.zeros((len(of), 8, 8), np.uint8) for split, of in (("train", train), ("val", val))}
    np.savez(tmp_path / "x.npz", **images, train_labels=train, val_labels=val, classes=np.array(["usual", "rare"]))
    assert main(["data", str(tmp_path / "x.npz")]) == 0
    text = capsys.readouterr().out
    assert "rarest to train on: rare (3), usual (30); commonest: usual (30), rare (3)" in text
    assert "10 to 1: see task.class_weights and task.sampling for rare classes" in text
    assert [line.count("█") for line in text.splitlines() if "█" in line] == [20, 2]


def refused(capsys, *words):
    assert main(["data", *map(str, words)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("more", [["--write", "out"], ["--check"]])
def test_statistics_do_nothing_else(capsys, more):
    assert "--statistics measures and does nothing else; give --write or --check without it" in refused(
        capsys, "digits", "--statistics", *more
    )


def test_options_of_labels_are_refused_for_masks(capsys, tmp_path):
    for folder, size in (("images", (8, 8, 3)), ("masks", (8, 8))):
        for split in ("train", "val"):
            (tmp_path / folder / split).mkdir(parents=True)
            Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / folder / split / "0.png")
    for words, said in (
        (["--statistics"], "--statistics is for labelled pictures"),
        (["--root", "x"], "--root is for tables"),
        (["--label-column", "x"], "--label-column is for tables"),
    ):
        assert f"{said}, and {tmp_path} holds masks" in refused(capsys, tmp_path, *words)


def test_rows_of_several_pictures_are_no_image_folder(capsys, tmp_path):
    for index in range(4):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(tmp_path / f"{index}.png")
    rows = [f"{index}.png,{index}.png,{'ab'[index % 2]}" for index in range(4)]
    (tmp_path / "pairs.csv").write_text("\n".join(["path,path_2,label", *rows]) + "\n")
    assert "is of several pictures, which one file of a folder cannot hold" in refused(
        capsys, tmp_path / "pairs.csv", "--write", tmp_path / "out"
    )
