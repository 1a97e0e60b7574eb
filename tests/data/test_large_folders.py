"""Image folders as people have them: ImageNet's layout, odd names, and an index that is kept."""

import logging
import os
import shutil
import sys
import time

import numpy as np
import pytest

from crosscale.data import index_cache, open_source
from crosscale.data import scan as scanning
from crosscale.errors import RequestError


def refusal(data_dir, split="train"):
    with pytest.raises(RequestError) as caught:
        open_source(data_dir, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pairs(source):
    return [(source[i].id, source[i].target) for i in range(len(source))]


@pytest.fixture
def imagenet(make_folder, grey):
    files = {f"train/n0{n}/n0{n}_{i}.JPEG": grey(i) for n in (1, 2, 3) for i in range(2)}
    return make_folder(files | {f"val/ILSVRC2012_val_0000000{i}.JPEG": grey(i) for i in (1, 2, 3)})


EXPECTED = [(f"val/ILSVRC2012_val_0000000{i}.JPEG", label) for i, label in ((1, 2), (2, 0), (3, 1))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.txt", "".join(f"ILSVRC2012_val_0000000{i}.JPEG {n}\n" for i, n in ((3, 1), (2, 0), (1, 2)))),
        ("val_map.txt", "".join(f"ILSVRC2012_val_0000000{i}.JPEG\tn0{n + 1}\n" for i, n in ((1, 2), (2, 0), (3, 1)))),
        ("imagenet_2012_validation_synset_labels.txt", "n03\nn01\nn02\n"),
        ("val/val.txt", "2\n0\n1"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "".join(f"ILSVRC2012_val_0000000{i},n0{n} 85 1 499 272 \n" for i, n in ((2, 1), (3, 2), (1, 3))),
        ),
    ],
)
def test_flat_val_with_its_labels(imagenet, name, text):
    (imagenet / name).write_text(text)
    val = open_source(imagenet, "val")
    assert list(val.classes) == ["n01", "n02", "n03"]
    assert pairs(val) == EXPECTED
    assert len(open_source(imagenet, "train")) == 6


def test_flat_val_refusals(imagenet):
    assert "val.txt with lines such as 'ILSVRC2012_val_00000001.JPEG 65'" in refusal(imagenet, "val")
    labels = imagenet / "val.txt"
    labels.write_text("2\n1\n")
    assert "has 2 labels, but" in refusal(imagenet, "val")
    labels.write_text("3\n1\n2\n")
    assert "development kit's own" in refusal(imagenet, "val")
    labels.write_text("0\n1\n3\n")
    assert f"{labels}:3: the label 3 lies outside 0..2" in refusal(imagenet, "val")
    labels.write_text("n01\nn02\nn30\n")
    assert "'n30' is not one of the 3 classes" in refusal(imagenet, "val")
    labels.write_text("ILSVRC2012_val_00000001.JPEG 1\nILSVRC2012_val_00000002.JPEG 1\n")
    assert "has no line for" in refusal(imagenet, "val")
    labels.write_bytes(b"\xff\xfe\xfa")
    assert "cannot be read as text" in refusal(imagenet, "val")


def test_folder_with_a_half_of_the_data(make_folder, grey):
    only_val = make_folder({"val/a/0.png": grey(0), "val/b/1.png": grey(1)}, "v")
    text = refusal(only_val, "val")
    assert f"{only_val}: has val/ but no train/" in text
    assert f"--data-dir {only_val / 'val'} --split all" in text
    whole = open_source(only_val / "val", "all")
    assert (list(whole.classes), len(whole)) == (["a", "b"], 2)
    only_train = make_folder({"train/a/0.png": grey(0)}, "t")
    assert "has train/ but no val/" in refusal(only_train)
    both = make_folder({"train/a/0.png": grey(0), "test/a/0.png": grey(0)}, "b")
    assert pairs(open_source(both, "val")) == [("test/a/0.png", 0)]
    assert "no one part" in refusal(both, "all")
    vehicles = make_folder({"train/0.png": grey(0), "bus/0.png": grey(0)}, "c")  # a class may be called train
    assert list(open_source(vehicles, "all").classes) == ["bus", "train"]


def test_class_names_that_differ_in_case_or_accents(make_folder, grey):
    root = make_folder({"train/Cat/0.png": grey(0), "train/cat/1.png": grey(1), "val/cat/0.png": grey(0)}, "case")
    assert "'Cat' and 'cat' differ only in case" in refusal(root)
    root = make_folder({"e\u0301/0.png": grey(0), "\u00e9/1.png": grey(1)}, "accents")
    assert "spelling of accents" in refusal(root)


def test_names_that_are_not_utf8(make_folder, grey, encode):
    root = make_folder({"a/0.png": grey(0), "a/1.png": grey(0)}, "files")
    with open(os.fsencode(root) + b"/a/\xff.png", "wb") as file:
        file.write(encode(grey(3)))
    source = open_source(root, "all")
    assert len(source) == 3
    assert all(source[i].image for i in range(3))
    assert len(open_source(root, "train")) == 2
    os.mkdir(os.fsencode(root) + b"/\xfe")
    assert "not UTF-8" in refusal(root)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scanning, "CACHED_FROM", 1)
    return tmp_path / "cache"


def settle(root):
    """Makes every folder look as if it had been left alone for a while."""
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            os.utime(path, ns=(0, time.time_ns() - 10 * index_cache.RACY_NS))


def test_index_is_kept_until_the_folder_changes(make_folder, grey, kept, monkeypatch):
    root = make_folder({f"{name}/{sub}{i}.png": grey(i) for name in "ab" for sub in ("", "s/") for i in range(3)})
    open_source(root, "all")
    assert not kept.exists()  # the folder is too new to be sure that its time tells of the next change
    settle(root)
    first = pairs(open_source(root, "all"))
    assert len(list(kept.rglob("*.npz"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(scanning, "_image_files", lambda *arguments: pytest.fail("read again"))
        assert pairs(open_source(root, "all")) == first
    (root / "b" / "s" / "1.png").unlink()
    assert pairs(open_source(root, "all")) == [pair for pair in first if pair[0] != "b/s/1.png"]
    shutil.rmtree(root / "a" / "s")
    assert len(open_source(root, "all")) == 8
    settle(root)
    (root / "c").mkdir()
    (root / "c" / "0.png").write_bytes((root / "a" / "0.png").read_bytes())
    assert list(open_source(root, "all").classes) == ["a", "b", "c"]


def test_a_damaged_index_is_made_anew(make_folder, grey, kept):
    root = make_folder({f"a/{i}.png": grey(i) for i in range(3)})
    settle(root)
    first = pairs(open_source(root, "all"))
    stored = next(kept.rglob("*.npz"))
    whole = stored.read_bytes()
    for damaged in (whole[:100], whole.replace(b"'descr'", b"\0" * 7), whole.replace(b"}", b"(")):
        stored.write_bytes(damaged)
        assert pairs(open_source(root, "all")) == first


def test_index_that_cannot_be_kept(make_folder, grey, kept, caplog):
    root = make_folder({"a/0.png": grey(0)})
    settle(root)
    kept.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "crosscale.data"):
        assert len(open_source(root, "all")) == 1
    assert "cannot be kept" in caplog.text


def test_progress_shows_itself(capsys, monkeypatch):
    with index_cache.Counter("reading /data", "files", every=0.0) as counter:
        counter.add(1500)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reading /data: 1,500 files, ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with index_cache.Counter("reading /data", "files", every=0.0) as counter:
        counter.add(1500)
    assert capsys.readouterr().err.startswith("\rreading /data: 1,500 files")
    with index_cache.Counter("reading /data", "files") as counter:
        counter.add(10**6)
    assert capsys.readouterr().err == ""  # what is done at once needs no words


def test_large_source_is_small_in_memory(kept, tmp_path):
    import pickle

    from crosscale.data.image_folder import ImageFolder
    from crosscale.data.strings import Strings

    paths = [f"train/n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG" for i in range(100_000)]
    source = ImageFolder(tmp_path, ["x"], Strings.of(paths), np.zeros(100_000, np.int32))
    assert len(pickle.dumps(source)) < 60 * 100_000
    assert [source.paths[i] for i in (0, 7, -1)] == [paths[0], paths[7], paths[-1]]
    assert source.paths[3:5] == paths[3:5]
    with pytest.raises(IndexError):
        source.paths[100_000]
