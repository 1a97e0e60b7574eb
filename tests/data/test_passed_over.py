"""Nothing that a user gave is left out without a word, and nothing is written where it was not asked."""

import io
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.predict import find_images
from crosscale.data import ImageFolder, open_source, write_image_folder
from crosscale.data import decode as decode_module
from crosscale.data import names as names_module
from crosscale.data.arrays import ArraySource
from crosscale.data.decode import BadImage, decode
from crosscale.data.pictures import decodable
from crosscale.errors import RequestError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(40)


def test_a_phones_folder_is_counted_by_reason_in_training(make_folder, grey, caplog):
    files = {f"a/{i}.png": grey(i) for i in range(2)} | {"b/0.png": grey(0), "b/1.png": grey(1)}
    others = {f"a/{i}.HEIC": HEIC for i in range(13)} | {
        "b/x.jp2": b"x",
        "b/y.tga": b"x",
        "b/z.NEF": b"x",
        "b/n.txt": b"",
    }
    root = make_folder(files | others | {"b/n.txt": b"", "b/Thumbs.db": b"", "b/.hidden": b""})
    for split in ("train", "val"):  # said once
        open_source(root, split)
    (said,) = [message for message in caplog.messages if "passed over" in message]
    assert said == (
        f"{root}: passed over 17 files: "
        "13 .heic (HEIC is read where pillow-heif is installed: pip install 'crosscale[heif]'); "
        "1 .nef (a raw photograph: develop it to JPEG or TIFF first); "
        "1 .jp2, 1 .tga (convert it to JPEG or PNG first); "
        "1 .txt (no pictures)"
    )


def test_a_folder_without_others_says_nothing(make_folder, grey, caplog):
    open_source(make_folder({f"{c}/{i}.png": grey(i) for c in "ab" for i in range(3)}), "train")
    assert not caplog.messages


def test_the_count_is_kept_with_the_index(make_folder, grey, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("crosscale.data.scan.CACHED_FROM", 2)
    monkeypatch.setattr("crosscale.data.scan.RACY_NS", -(10**12))
    root = make_folder({"a/0.png": grey(0), "b/0.png": grey(0), "b/1.tga": b"x", "b/2": b"x"})
    for _ in range(2):
        monkeypatch.setattr("crosscale.data.names._said", set())
        open_source(root, "all")
    first, second = caplog.messages
    assert first == second
    assert "2 files: 1 .tga (convert it to JPEG or PNG first); 1 without a suffix (no pictures)" in first


def test_flat_validation_and_archives_count_too(make_folder, grey, caplog, tmp_path):
    root = make_folder({"train/a/0.png": grey(0), "train/b/0.png": grey(0), "val/0.png": grey(0), "val/1.heif": HEIC})
    (root / "val.txt").write_text("0.png a\n")
    open_source(root, "val")
    assert any("val: passed over 1 file: 1 .heif" in message for message in caplog.messages)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a/0.png", "b/0.png", "b/1.heic", "b/2.psd"):
            info = tarfile.TarInfo(name)
            info.size = 8
            tar.addfile(info, io.BytesIO(bytes(8)))
    open_source(tmp_path, "all")
    assert any(": passed over 2 files: 1 .heic" in message for message in caplog.messages)


def test_predict_counts_them(make_folder, grey, capsys):
    root = make_folder({"0.png": grey(0), "deep/1.heic": HEIC, "deep/2.avi": b"x"})
    assert find_images([str(root)]) == [root / "0.png"]
    assert f"crosscale predict: {root}: passed over 2 files: 1 .heic (HEIC is read" in capsys.readouterr().err
    find_images([str(root)], "embed")
    assert f"crosscale embed: {root}: passed over 2 files" in capsys.readouterr().err
    with pytest.raises(RequestError, match=r"deep: holds no images .*, passed over 2 files: 1 \.heic"):
        find_images([str(root / "deep")])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("t.xlsx", "a table: save it as CSV first"),
        ("t.zip", "packed: unpack it first"),
        ("t.tar.gz", "packed: unpack it first"),
        ("t.tar", "a shard of pictures: give its folder"),
    ],
)
def test_a_container_in_place_of_a_folder_says_what_to_do(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(RequestError, match=rf"{name}: a file, not a folder of class folders; {advice}$"):
        open_source(tmp_path / name, "all")
    if name != "t.tar":
        with pytest.raises(RequestError, match=rf"holds no class folders; {name} is passed over \({advice}\); put"):
            open_source(tmp_path, "all")


def test_predict_says_how_the_pictures_of_a_shard_become_files(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"image": [b"x"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"1 \.parquet \(a shard of pictures: crosscale data FOLDER --write OTHER"):
        find_images([str(tmp_path)])
    with pytest.raises(RequestError, match=rf"crosscale data {tmp_path} --write FOLDER makes picture files"):
        find_images([str(tmp_path / "a.parquet")])


def test_a_name_too_long_for_a_file_is_one_bad_picture(make_folder, grey):
    root = make_folder({"0.png": grey(0)})
    long = "x" * 300
    assert find_images([long, str(root)]) == [Path(long), root / "0.png"]
    with pytest.raises(RequestError, match="no such file or folder"):
        find_images([long])
    with pytest.raises(BadImage, match="File name too long"):
        decodable(f"{long}::{long}", "pair")


def test_heic_is_named(monkeypatch):
    with pytest.raises(BadImage, match="HEIC is read where pillow-heif is installed"):
        decode(HEIC, 3, "photo.jpg")


def test_heic_is_read_where_its_reader_is_installed(make_folder, grey, monkeypatch, encode):
    class Reader(Image.Image):
        def __init__(self, file, name):
            super().__init__()
            self._mode, self._size = "RGB", (4, 4)
            self.im = Image.new("RGB", (4, 4), (1, 2, 3)).im

    def register():
        Image.register_open("FAKEHEIF", Reader, lambda start: start[4:8] == b"ftyp")
        Image.ID.insert(0, Image.ID.pop())

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    for function in (names_module.reads_heif, decode_module.register_heif):
        function.cache_clear()
    monkeypatch.setattr(names_module, "find_spec", lambda name: True)
    try:
        root = make_folder({"a/0.png": grey(0), "a/1.HEIC": HEIC, "b/0.png": grey(0)})
        source = open_source(root, "all")
        assert list(source.paths) == ["a/0.png", "a/1.HEIC", "b/0.png"]
        assert np.asarray(decode(source[1].image, 3, "x"))[0, 0].tolist() == [1, 2, 3]
    finally:
        monkeypatch.undo()
        Image.ID.remove("FAKEHEIF")
        del Image.OPEN["FAKEHEIF"]
        for function in (names_module.reads_heif, decode_module.register_heif):
            function.cache_clear()


def test_a_folder_called_digits_is_not_replaced(tmp_path, monkeypatch, make_folder, grey):
    root = make_folder({f"{c}/{i}.png": grey(i) for c in "ab" for i in range(3)}, name="digits")
    monkeypatch.chdir(root.parent)
    with pytest.raises(RequestError, match=r"digits: a folder of that name is here.*give \./digits"):
        open_source("digits", "train")
    assert tuple(open_source("./digits", "train").classes) == ("a", "b")
    monkeypatch.chdir(root)
    assert len(open_source("digits", "all")) == 1797


ESCAPING = [
    "../evil",
    "..",
    ".",
    "a/b",
    "/absolute",
    "",
    "a\nb",
    "a\rb",
    " a",
    "a ",
    ".hidden",
    "__MACOSX",
    "a\\b",
    "a\0b",
]


@pytest.mark.parametrize("name", ESCAPING)
def test_class_names_that_would_not_come_back_are_not_written(tmp_path, name):
    source = ArraySource(["ok", name], ["x/0", "x/1"], np.zeros((2, 4, 4), np.uint8), np.array([0, 1]))
    with pytest.raises(RequestError, match="rename"):
        write_image_folder({"train": source}, tmp_path / "out")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("names", [["A", "a"], ["caf\u00e9", "cafe\u0301"]])
def test_class_names_that_would_merge_are_not_written(tmp_path, names):
    source = ArraySource(names, ["x/0", "x/1"], np.zeros((2, 4, 4), np.uint8), np.array([0, 1]))
    with pytest.raises(RequestError, match="differ only in case"):
        write_image_folder({"train": source}, tmp_path / "out")


def test_odd_class_names_survive_the_round_trip(tmp_path):
    names = sorted(["great dane", "a,b", 'say "x"', "\u72ac", "-x", "train", "9"])
    images = np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    source = ArraySource(names, [f"x/{i}" for i in range(7)], images, np.arange(7))
    write_image_folder({"train": source}, tmp_path / "out")
    found: ImageFolder = open_source(tmp_path / "out" / "train", "all")
    assert list(found.classes) == names
    assert [int(np.asarray(Image.open(io.BytesIO(found[i].image)))[0, 0]) for i in range(7)] == list(range(7))
