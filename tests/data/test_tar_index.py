"""What a tar shard's samples are: one label and one picture each, links followed, and what is left out counted."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from crosscale.data import open_source
from crosscale.data.decode import decode
from crosscale.errors import RequestError


@pytest.fixture
def shard(tmp_path, encode, grey):
    """Writes one: numbers are pictures of that grey, "-> x" a symbolic link and "=> x" a hard one, bytes themselves."""

    def make(members):
        folder = tmp_path / "shards"
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / "x.tar", "w") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                    info.linkname = content[3:]
                    tar.addfile(info)
                    continue
                data = content if isinstance(content, bytes) else encode(grey(content))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return folder

    return make


def refused(folder):
    with pytest.raises(RequestError) as caught:
        open_source(folder, "all")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder):
    source = open_source(folder, "all")
    records = [source[index] for index in range(len(source))]
    return [
        (r.id.partition("/")[2], int(np.asarray(decode(r.image, 1, r.id))[0, 0]), source.classes[r.target])
        for r in records
    ]


@pytest.mark.parametrize("second", [b"cat", b"dog"])
def test_a_name_with_dots_labels_no_other_picture(shard, second):
    folder = shard({"IMG.0.png": 0, "IMG.0.cls": b"cat", "IMG.1.png": 1, "IMG.1.cls": second})
    assert "IMG.0.cls and IMG.1.cls label one sample, 'IMG', since a sample is named up to the first dot" in refused(
        folder
    )


def test_names_with_dots_in_class_folders(shard):
    folder = shard({"a/2024.01.03.png": 1, "a/2024.01.04.png": 2, "b/x.y.png": 3})
    assert contents(folder) == [("a/2024.01.03.png", 1, "a"), ("a/2024.01.04.png", 2, "a"), ("b/x.y.png", 3, "b")]


def test_of_a_samples_pictures_its_own_counts(shard, caplog):
    folder = shard({"0.seg.png": 9, "0.png": 0, "0.cls": b"a", "1.png": 1, "1.Thumb.PNG": 9, "1.cls": b"b"})
    assert contents(folder) == [("0.png", 0, "a"), ("1.png", 1, "b")]
    assert any("passed over 2 files: 1 .seg.png, 1 .thumb.png" in message for message in caplog.messages)
    for names in (("0.left.png", "0.right.png"), ("0.png", "0.jpg")):
        assert f"the sample '0' has several pictures, {names[0]} and {names[1]}; keep one" in refused(
            shard({**dict.fromkeys(names, 1), "0.cls": b"a"})
        )


def test_a_cls_file_comes_before_a_json_file(shard):
    assert contents(shard({"0.json": b'{"label": "json"}', "0.cls": b"cls", "0.png": 0})) == [("0.png", 0, "cls")]


def test_links_are_pictures(shard):
    folder = shard({"b/1.png": "-> ../a/0.png", "a/0.png": 7, "b/2.png": "=> a/0.png", "b/3.png": "-> 1.png"})
    assert sorted(contents(folder)) == [
        ("a/0.png", 7, "a"),
        *((f"b/{n}.png", 7, "b") for n in (1, 2, 3)),
    ]
    for target in ("-> ../a/9.png", "-> 1.png"):
        assert "b/1.png is a symbolic link to" in refused(shard({"a/0.png": 7, "b/1.png": target}))


def test_an_installed_reader_makes_the_kept_index_another(shard, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("crosscale.data.tar_shards.CACHED_FROM", 1)
    folder = shard({"a/0.png": 0, "b/1.png": 1, "b/2.heic": b"x"})
    for installed, count in ((False, 2), (False, 2), (True, 3)):
        monkeypatch.setattr("crosscale.data.names.reads_heif", lambda installed=installed: installed)
        monkeypatch.setattr("crosscale.data.names._said", set())
        caplog.clear()
        assert len(open_source(folder, "all")) == count
        assert any("passed over 1 file: 1 .heic" in message for message in caplog.messages) is not installed


def test_an_installed_reader_makes_a_kept_folder_another(make_folder, grey, monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("crosscale.data.scan.CACHED_FROM", 1)
    monkeypatch.setattr("crosscale.data.scan.RACY_NS", -(10**12))
    root = make_folder({"a/0.png": grey(0), "b/0.png": grey(0), "b/1.heic": b"x"})
    for installed, count in ((False, 2), (True, 3)):
        monkeypatch.setattr("crosscale.data.names.reads_heif", lambda installed=installed: installed)
        assert len(open_source(root, "all")) == count


def test_pictures_beside_the_class_folders_are_told(make_folder, grey, caplog):
    root = make_folder({"a/0.png": grey(0), "b/0.png": grey(0), "loose.png": grey(0), "other.png": grey(1)})
    open_source(root, "all")
    assert caplog.messages == [
        f"{root}: 2 pictures lie beside the class folders, such as loose.png, and are left out: without a class"
    ]


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_arrays_are_written_as_an_image_folder(tmp_path, suffix):
    from crosscale.data import write_image_folder

    for name in "ab":
        (tmp_path / "in" / name).mkdir(parents=True)
        array = np.full((4, 4, 3), 9, np.uint8)
        file = tmp_path / "in" / name / f"0{suffix}"
        np.save(file, array) if suffix == ".npy" else Image.fromarray(array).save(file)
    write_image_folder({"train": open_source(tmp_path / "in", "all")}, tmp_path / "out")
    assert np.asarray(Image.open(tmp_path / "out" / "train" / "a" / "0.png")).tolist() == np.full((4, 4), 9).tolist()
