import logging
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from crosscale.data import open_source, write_image_folder
from crosscale.data.decode import decode
from crosscale.errors import RequestError


def refusal(data_dir, split="train", **options):
    with pytest.raises(RequestError) as caught:
        open_source(data_dir, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_train_and_val_folders(make_folder, grey):
    root = make_folder(
        {
            "train/b/2.png": grey(2),
            "train/a/1.PNG": grey(1),
            "train/a/deep/er/0.Png": grey(0),
            "train/a/.hidden.png": grey(9),
            "train/.cache/x.png": grey(9),
            "train/a/notes.txt": b"text",
            "val/a/3.png": grey(3),
            "val/b/4.png": grey(4),
        }
    )
    train, val = open_source(root, "train"), open_source(root, "val")
    assert list(train.classes) == list(val.classes) == ["a", "b"]
    assert [(train[i].id, train[i].target) for i in range(len(train))] == [
        ("train/a/1.PNG", 0),
        ("train/a/deep/er/0.Png", 0),
        ("train/b/2.png", 1),
    ]
    assert [(val[i].id, val[i].target) for i in range(len(val))] == [("val/a/3.png", 0), ("val/b/4.png", 1)]
    assert int(np.asarray(decode(train[2].image, 1, "x"))[0, 0]) == 2


def test_single_folder_is_split_by_class(make_folder, grey):
    root = make_folder({f"{name}/{i}.png": grey(i) for name in ("a", "b") for i in range(10)} | {"c/0.png": grey(0)})
    train, val = open_source(root, "train"), open_source(root, "val")
    ids = [[source[i].id for i in range(len(source))] for source in (train, val)]
    assert sorted(ids[0] + ids[1]) == [*sorted(f"{n}/{i}.png" for n in "ab" for i in range(10)), "c/0.png"]
    assert not set(ids[0]) & set(ids[1])
    assert [sum(name.startswith(c) for name in ids[1]) for c in "abc"] == [2, 2, 0]
    again = open_source(root, "val")
    assert [again[i].id for i in range(len(again))] == ids[1]
    other = open_source(root, "val", seed=1, val_fraction=0.5)
    assert [sum(other[i].id.startswith(c) for i in range(len(other))) for c in "abc"] == [5, 5, 0]
    assert list(train.classes) == list(val.classes) == ["a", "b", "c"]


def test_names_beyond_ascii(make_folder, grey):
    root = make_folder({"train/žluťoučký/kůň 1.png": grey(1), "train/猫/写真.png": grey(2), "val/猫/a.png": grey(3)})
    train = open_source(root, "train")
    assert list(train.classes) == sorted(["žluťoučký", "猫"])
    assert {len(train[i].image) > 0 for i in range(2)} == {True}


def test_symbolic_links(make_folder, grey):
    root = make_folder({"a/0.png": grey(0), "a/more/1.png": grey(1), "b/2.png": grey(2)})
    (root / "a" / "loop").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "self").symlink_to("self")
    (root / "b" / "linked.png").symlink_to(root / "a" / "0.png")
    train, val = open_source(root, "train"), open_source(root, "val")
    labels = [source[i].target for source in (train, val) for i in range(len(source))]
    assert labels.count(0) == 2  # a's loop ends, and so does the link to what is above it, where b is
    assert labels.count(1) == 2  # b's own picture and the linked one
    assert all(source[i].image for source in (train, val) for i in range(len(source)))


def test_class_of_val_that_train_lacks(make_folder, grey):
    root = make_folder({"train/a/0.png": grey(0), "val/a/1.png": grey(1), "val/zebra/2.png": grey(2)})
    assert "'zebra' is in val/ but not in train/" in refusal(root, "val")


def test_class_of_train_that_val_lacks(make_folder, grey, caplog):
    root = make_folder({"train/a/0.png": grey(0), "train/b/0.png": grey(0), "val/b/1.png": grey(1)})
    with caplog.at_level(logging.WARNING, "crosscale.data"):
        val = open_source(root, "val")
    assert [(record.name, "'a'" in record.getMessage()) for record in caplog.records] == [("crosscale.data", True)]
    assert (len(val), val[0].target) == (1, 1)


@pytest.mark.parametrize("layout", ["train/{}", "{}"])
def test_empty_class_folder(make_folder, grey, layout):
    root = make_folder({layout.format("a/0.png"): grey(0), "val/a/0.png" if "train" in layout else "c/1.png": grey(1)})
    empty = root / layout.format("empty")
    empty.mkdir(parents=True)
    text = refusal(root)
    assert str(empty) in text
    assert "no images" in text
    (empty / "list.csv").write_text("x")
    assert "list.csv" in refusal(root)


def test_folders_that_cannot_be_data(make_folder, grey, tmp_path):
    assert "train/<class>" in refusal(tmp_path / "nothing")
    assert "digits" in refusal(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    assert "a file, not a folder" in refusal(tmp_path / "file")
    assert "no class folders" in refusal(make_folder({"1.png": grey(1)}, "flat"))
    assert "no val/" in refusal(make_folder({"train/a/1.png": grey(1)}, "half"))


def test_folder_without_permission(grey, encode):
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        for name in ("open", "closed"):
            Path(top, name).mkdir()
            Path(top, name, "0.png").write_bytes(encode(grey(0)))
        os.chmod(Path(top, "closed"), 0o000)
        program = (
            "import os, sys, crosscale.data as d\n"
            "from crosscale.errors import RequestError\n"
            "d.open_source\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"  # root may read everything
            "try: d.open_source(sys.argv[1], 'train')\n"
            "except RequestError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, top], capture_output=True, text=True)
        os.chmod(Path(top, "closed"), 0o755)
    assert done.stdout.strip() == f"{Path(top, 'closed')}: no permission to list this folder", done.stderr


def test_source_travels_to_workers(make_folder, grey):
    source = open_source(make_folder({"train/a/0.png": grey(7), "val/a/0.png": grey(8)}), "train")
    assert pickle.loads(pickle.dumps(source))[0] == source[0]


def test_digits_written_as_a_folder_are_the_same_data(tmp_path):
    sources = {split: open_source("digits", split) for split in ("train", "val")}
    seen = []
    write_image_folder(sources, tmp_path / "digits", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1797, 1797)
    for split, source in sources.items():
        folder = open_source(tmp_path / "digits", split)
        assert (len(folder), list(folder.classes)) == (len(source), list(source.classes))
        for i in range(len(source)):  # in the same order, so that training is the same too
            assert folder[i].target == source[i].target
            np.testing.assert_array_equal(np.asarray(decode(folder[i].image, 1, "x")), source[i].image)
    with pytest.raises(RequestError, match="already exists"):
        write_image_folder(sources, tmp_path / "digits")


def test_colour_survives_writing(make_folder, photo, grey, tmp_path):
    files = {
        "train/a/0.png": photo,
        "train/a/1.png": grey(3),
        "train/a/b/1.gif": grey(4),
        "val/a/0.png": photo,
    }
    source = open_source(make_folder(files), "train")
    write_image_folder({"train": source, "val": source}, tmp_path / "out")
    written = open_source(tmp_path / "out", "train")
    assert sorted(path.name for path in (tmp_path / "out" / "train" / "a").iterdir()) == [
        "0.png",
        "1.png",
        "train_a_b_1.gif.png",
    ]
    np.testing.assert_array_equal(np.asarray(decode(written[0].image, 3, "x")), np.asarray(photo))


def test_a_class_with_too_long_a_name_is_refused_before_anything_is_written(tmp_path):
    names = np.array(["x" * 256, "y"])
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 2, classes=names)
    with pytest.raises(RequestError, match=r"x'\.\.\. has too long a name for a folder; shorten it"):
        write_image_folder({"train": open_source(tmp_path / "a.npz", "all")}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
