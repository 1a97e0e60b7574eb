"""One rule for every kind of source: names of splits, what is a picture, what others leave behind, lists of lines."""

import io
import tarfile

import numpy as np
import pytest

from crosscale.data import open_source
from crosscale.data.decode import BadImage, decode
from crosscale.data.mask_layouts import find_layout
from crosscale.data.names import HELD_OUT, SPLITS, is_left_behind, is_picture, split_in, split_of
from crosscale.data.table import open_table
from crosscale.data.text_lists import read_lines, read_names
from crosscale.errors import RequestError
from tests.data.conftest import encoded

PAIRS = [("train", "val"), ("Train", "Test"), ("training", "testing"), ("train", "dev"), ("TRAIN", "Validation")]
WORDS = [("training_set", "test_set"), ("seg_train", "seg_test"), ("train-images", "eval-images")]


def members(grey, train, val):
    return {f"{part}/{name}/{i}.png": grey(20 * i) for part in (train, val) for name in ("a", "b") for i in range(3)}


def check_parts(root, ids):
    for split, folder in zip(("train", "val"), ids, strict=True):
        source = open_source(root, split)
        assert tuple(source.classes) == ("a", "b")
        assert len(source) == 6
        assert all(folder in source[index].id for index in range(6))
        assert [source[index].target for index in range(6)] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("pair", PAIRS + WORDS)
def test_folders_of_splits(make_folder, grey, pair):
    root = make_folder(members(grey, *pair))
    check_parts(root, [f"{name}/" for name in pair])
    with pytest.raises(RequestError, match=rf"has {pair[0]}/ and {pair[1]}/, so no one part is all of it"):
        open_source(root, "all")


@pytest.mark.parametrize("top", ["", "photos/"])
@pytest.mark.parametrize("pair", PAIRS + WORDS)
def test_folders_of_splits_inside_an_archive(tmp_path, grey, pair, top):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name, img in sorted(members(grey, *pair).items()):
            add(tar, top + name, encoded(img))
    check_parts(tmp_path, [f"/{name}/" for name in pair])
    with pytest.raises(RequestError, match="a part to train on and one held out"):
        open_source(tmp_path, "all")


def test_classes_inside_an_archive_that_are_called_like_splits(tmp_path, grey):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name in ("train", "tram"):
            for index in range(4):
                add(tar, f"{name}/{index}.png", encoded(grey(index)))
    assert tuple(open_source(tmp_path, "train").classes) == ("train", "tram")


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("pair", PAIRS)
def test_shards_arrays_and_tables_know_the_same_names(tmp_path, grey, pair):
    for part in pair:
        with tarfile.open(tmp_path / f"photos-{part}-0.tar", "w") as tar:
            for name in ("a", "b"):
                add(tar, f"{name}/0.png", encoded(grey(9)))
    assert (split_in(f"photos-{pair[0]}-0.tar"), open_source(tmp_path, "val").files[0].name) == (
        "train",
        f"photos-{pair[1]}-0.tar",
    )
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    arrays = {f"{part}_{kind}": values for part in pair for kind, values in (("images", images), ("labels", labels))}
    np.savez(tmp_path / "x.npz", **arrays)
    assert open_source(tmp_path / "x.npz", "val")[0].id == f"{pair[1]}_images/0"
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(encoded(grey(0)))
    table = tmp_path / "t.csv"
    table.write_text(f"path,split,y\n0.png,{pair[0]},1\n1.png,{pair[1]},2\n")
    assert [open_table(table, part, val_fraction=0.5, seed=0).paths[0] for part in ("train", "val")] == [
        "0.png",
        "1.png",
    ]


def test_two_folders_with_one_claim_are_refused(make_folder, grey):
    files = {f"{part}/{name}/0.png": grey(0) for part in ("train", "Training", "val") for name in "ab"}
    with pytest.raises(RequestError, match=r"has Training/ and train/; merge or rename one of them"):
        open_source(make_folder(files), "train")


def test_half_a_split_names_the_folder_that_is_there(make_folder, grey):
    root = make_folder({f"Testing/{name}/0.png": grey(0) for name in "ab"})
    with pytest.raises(RequestError, match=r"has Testing/ but no train/.*--data-dir \S+Testing --split all"):
        open_source(root, "train")
    root = make_folder({f"Training/{name}/0.png": grey(0) for name in "ab"}, name="other")
    with pytest.raises(RequestError, match=r"has Training/ but no val/.*give \S+Training to hold out"):
        open_source(root, "train")


def test_parts_that_would_be_taken_for_classes_are_refused(make_folder, grey):
    both = {f"{part}/{name}/{i}.png": grey(i) for part in ("holdout", "train") for name in "ab" for i in range(2)}
    with pytest.raises(RequestError, match=r"has train/ and holdout/, which hold the same folders \(a, b\); call them"):
        open_source(make_folder(both), "train")
    inside = {f"{name}/{part}/{i}.png": grey(i) for part in ("Val", "train") for name in "ab" for i in range(2)}
    with pytest.raises(RequestError, match=r"its class folders hold train/ and Val/; put these first: train/<class>/"):
        open_source(make_folder(inside, "inside"), "train")


def test_classes_that_hold_the_same_folders_are_named(make_folder, grey, caplog):
    root = make_folder({f"{name}/{part}/0.png": grey(0) for part in ("in", "out") for name in ("cat", "dog")})
    assert tuple(open_source(root, "val").classes) == ("cat", "dog") == tuple(open_source(root, "train").classes)
    assert caplog.text.count("takes cat/ and dog/ for classes, and they hold the same folders (in, out); if these") == 1


def test_classes_with_a_word_of_a_split_are_classes(make_folder, grey):
    root = make_folder({f"{name}/{i}.png": grey(i) for name in ("freight-train", "steam-train") for i in (0, 1)})
    assert tuple(open_source(root, "train").classes) == ("freight-train", "steam-train")


def test_no_word_stands_in_two_splits():
    words = [word for names in SPLITS.values() for word in names]
    assert len(words) == len(set(words))
    assert [split_of(word.upper()) for word in HELD_OUT] == ["val"] * 5 + ["test"] * 2
    assert split_of("trains") == ""


LEFT = ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".thumbnails"]


@pytest.mark.parametrize("name", [*LEFT, "Thumbs.db", "desktop.ini", "._a.jpg"])
def test_what_other_programs_leave_behind(name):
    assert is_left_behind(name)
    assert not is_left_behind(f"x{name}")


@pytest.mark.parametrize("name", LEFT)
def test_folders_left_behind_are_no_classes_and_hold_no_pictures(make_folder, grey, name):
    files = {f"{c}/{i}.png": grey(i) for c in ("a", "b") for i in range(4)}
    root = make_folder(files | {f"{name}/a/0.png": grey(0), f"a/{name}/0.png/thumb.jpg": grey(0)})
    source = open_source(root, "all")
    assert tuple(source.classes) == ("a", "b")
    assert sorted(source.paths) == sorted(files)


def test_members_of_an_archive_left_behind(tmp_path, grey):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name in ("a/0.png", "b/0.png", "__MACOSX/a/._0.png", "a/@eaDir/0.png"):
            add(tar, name, encoded(grey(3)))
    assert list(open_source(tmp_path, "all").names) == ["a/0.png", "b/0.png"]


def test_what_is_a_picture():
    assert all(map(is_picture, ["a.JPG", "b.jpe", "c.x.webp", "d.Tiff"]))
    assert not any(map(is_picture, ["a.txt", "jpg", ".jpg", "a.jpg.part", "a.tga"]))


@pytest.mark.parametrize(
    "data",
    [
        b"alpha\nbeta x\n\ngamma",
        b"\xef\xbb\xbfalpha\r\n beta x \r\n\r\n\tgamma\r\n",
        'alpha\n"beta x"\n\n"gamma"'.encode("utf-16"),
        b"alpha\rbeta x\r\rgamma",
        b"\xef\xbb\xbfalpha\nbeta x\n\n\xef\xbb\xbfgamma\n",  # two lists with marks, one behind the other
    ],
)
def test_lists_read_alike_in_any_form(tmp_path, data):
    file = tmp_path / "names.txt"
    file.write_bytes(data)
    assert read_names(file) == ["alpha", "beta x", "gamma"]
    assert read_lines(file)[2] == ""


def test_lists_that_are_refused(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text('alpha\n"alpha"\n')
    with pytest.raises(RequestError, match=r"names\.txt: the class 'alpha' appears twice"):
        read_names(file)
    for data in (b"\xff\x00", "alpha\nbeta".encode("utf-16-le")):
        file.write_bytes(data)
        with pytest.raises(RequestError, match=r"names\.txt: cannot be read as text"):
            read_names(file)


FLAT = {"train/great dane/0.png", "train/ape/0.png", "val/one.png", "val/two b.png"}


@pytest.mark.parametrize(
    "text",
    [
        "one.png ape\ntwo b.png great dane\n",
        '\ufeff"one.png","ape"\r\n"two b.png","great dane"\r\n',
        "one.png, ape\ntwo b.png, great dane",
        "one.png\tape\ntwo b.png\tgreat dane",
        "val\\one.png 0\nval\\two b.png 1\n",
        "ape\ngreat dane\n",
        "0\n1\n",
        "one.png ape/\ntwo b.png great dane/\n",
    ],
)
def test_flat_lists_with_spaces_and_quotes(make_folder, grey, text):
    root = make_folder({name: grey(0) for name in FLAT})
    (root / "val.txt").write_bytes(text.encode())
    source = open_source(root, "val")
    assert list(source.paths) == ["val/one.png", "val/two b.png"]
    assert source.labels.tolist() == [0, 1]


def test_flat_lists_that_name_a_picture_twice_or_one_that_is_not_there(make_folder, grey, caplog):
    root = make_folder({name: grey(0) for name in FLAT})
    (root / "val.txt").write_text("one.png ape\none.png ape\ntwo b.png great dane\ngone.png ape\n")
    assert open_source(root, "val").labels.tolist() == [0, 1]
    assert "val.txt: 1 of 4 lines name no picture of" in caplog.text
    assert "the first 'gone.png ape'" in caplog.text
    (root / "val.txt").write_text("one.png ape\ntwo b.png ape\none.png great dane\n")
    with pytest.raises(RequestError, match=r"val\.txt:3: 'one' is 'great dane' here and 'ape' in line 1"):
        open_source(root, "val")


@pytest.mark.parametrize("labels", [(0, 1, 2, 3), (1, 2, 3, 1), (3, 3, 3, 3)])
def test_numbers_that_are_names_and_positions_are_refused(make_folder, grey, labels):
    root = make_folder({f"train/{n}/0.png": grey(n) for n in (1, 2, 3, 4)} | {f"val/{i}.png": grey(i) for i in "5678"})
    lines = "".join(f"{5 + i}.png {label}\n" for i, label in enumerate(labels))
    (root / "val.txt").write_text(lines)
    with pytest.raises(RequestError, match=r"val\.txt:\d: the label (\d) is the class folder '\1' or, counted from 0"):
        open_source(root, "val")
    (root / "val.txt").write_text("".join(f"{5 + i}.png {i + 1}/\n" for i in range(4)))
    assert open_source(root, "val").labels.tolist() == [0, 1, 2, 3]


def test_numbers_with_noughts_before_them_have_two_meanings(make_folder, grey):
    root = make_folder({f"train/0{n}/0.png": grey(n) for n in (1, 2, 3)} | {f"val/{i}.png": grey(i) for i in "56"})
    (root / "val.txt").write_text("5.png 1\n6.png 2\n")
    with pytest.raises(RequestError, match=r"val\.txt:1: the label 1 is the class folder '01' or, counted from 0"):
        open_source(root, "val")
    (root / "val.txt").write_text("5.png 01/\n6.png 02\n")
    with pytest.raises(RequestError, match=r"val\.txt:2: the label 02 is the class folder '02'"):
        open_source(root, "val")


def test_numbers_in_shards_that_are_names_and_positions_are_refused(tmp_path, grey):
    def shard(labels):
        with tarfile.open(tmp_path / "photos.tar", "w") as tar:
            for index, label in enumerate(labels):
                add(tar, f"{index}.png", encoded(grey(index)))
                add(tar, f"{index}.cls", label.encode())
        return [open_source(tmp_path, "all")[i].target for i in range(len(labels))]

    (tmp_path / "classes.txt").write_text("3\n2\n1\n0\n")
    with pytest.raises(RequestError, match="the label 0 is the class '0' or, counted from 0, the class '3'; write"):
        shard("0123")
    assert shard(["0/", "1/", "2/", "3/"]) == [3, 2, 1, 0]
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")
    assert shard("123") == [0, 1, 2]  # 3 is no position, so that they are names
    assert shard("012") == [0, 1, 2]  # 0 is no name


def test_numbers_that_are_folders_are_names_in_an_archive_too(make_folder, tmp_path, grey):
    files = {f"{name}/{i}.png": grey(i) for name in ("1", "10", "2") for i in range(2)}
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name, img in files.items():
            add(tar, name, encoded(img))
    found = open_source(tmp_path, "all")
    assert tuple(found.classes) == tuple(open_source(make_folder(files), "all").classes) == ("1", "10", "2")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_numbers_whose_two_meanings_agree_are_taken(make_folder, grey):
    root = make_folder({f"train/{n}/0.png": grey(n) for n in range(4)} | {f"val/{i}.png": grey(i) for i in range(4)})
    (root / "val.txt").write_text("3\n2\n1\n0\n")
    assert open_source(root, "val").labels.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x.tar", "; a shard of pictures: crosscale data FOLDER --write OTHER makes picture files of it"),
        ("x.zip", "; packed: unpack it first"),
        ("x.pdf", "; a document: save its pages as pictures first"),
        ("x.png", ""),
        ("x", ""),
    ],
)
def test_what_to_do_about_a_file_that_is_no_picture(name, advice):
    with pytest.raises(BadImage) as raised:
        decode(b"hello", 3, name)
    assert raised.value.reason == f"not an image in a format that Pillow reads{advice}"


def test_a_packed_file_for_a_folder_of_masks(tmp_path):
    (tmp_path / "t.zip").write_bytes(b"PK")
    with pytest.raises(RequestError, match=r"t\.zip: a file, not a folder \(packed: unpack it first\); give one with"):
        find_layout(tmp_path / "t.zip")
