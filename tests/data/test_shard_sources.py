"""Tar, parquet and array sources: the same contract, recognised from the address alone."""

import http.server
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest

from crosscale.contracts import InputSpec, Source
from crosscale.data import Augment, open_source, train_batches
from crosscale.data import index_cache as cache
from crosscale.data.decode import BadImage, decode
from crosscale.data.examples import ImageExamples
from crosscale.data.once import read_once
from crosscale.errors import RequestError, WorkError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSCALE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_tar(tmp_path, encode, grey):
    def make(name, members):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for member, content in members.items():
                data = content if isinstance(content, bytes) else encode(grey(content))
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def make_parquet(tmp_path, encode, grey):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def make(name, labels, names=None, group=4, column="image"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": encode(grey(i)), "path": f"{i}.png"} for i in range(len(labels))]
        table = pa.table({column: images, "label": labels})
        if names:
            features = {column: {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, path, row_group_size=group)
        return path

    return make


def refusal(kind, *arguments, **options):
    with pytest.raises(kind) as caught:
        open_source(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def value(record):
    return int(np.asarray(decode(record.image, 1, record.id)).ravel()[0])


def contents(source):
    records = [source[i] for i in range(len(source))]
    assert isinstance(source, Source)
    assert len({record.id for record in records}) == len(records)
    again = pickle.loads(pickle.dumps(source))
    assert [again[i] for i in range(len(again))] == records
    return [(value(record), record.target) for record in records]


def test_webdataset_shards(make_tar, tmp_path):
    make_tar("w/photos-train-000.tar", {"0.png": 10, "0.cls": b"1\n", "1.png": 11, "1.cls": b"0"})
    make_tar("w/photos-train-001.tar", {"2.jpg": 12, "2.json": b'{"label": 2}', "._2.jpg": b"junk"})
    make_tar("w/photos-val-000.tar", {"a/3.seg.png": 13, "a/3.cls": b"2"})
    train, val = open_source(tmp_path / "w", "train"), open_source(tmp_path / "w", "val")
    assert list(train.classes) == list(val.classes) == ["0", "1", "2"]
    assert contents(train) == [(10, 1), (11, 0), (12, 2)]
    assert contents(val) == [(13, 2)]
    (tmp_path / "w" / "classes.txt").write_text("cat\ndog\nguinea pig\n")
    assert list(open_source(tmp_path / "w", "train").classes) == ["cat", "dog", "guinea pig"]


def test_labels_that_count_from_one_are_noted_once(make_tar, tmp_path, caplog):
    labels = np.repeat(np.arange(1, 9), 2)
    files = [((f"{i}.png", i), (f"{i}.cls", b"%d" % label)) for i, label in enumerate(labels)]
    make_tar("w/all.tar", dict(file for pair in files for file in pair))
    images = np.zeros((len(labels), 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    for place in ("w", "x.npz"):
        caplog.clear()
        with read_once():
            for split in ("train", "val"):
                assert len(open_source(tmp_path / place, split).classes) == 9
        (said,) = caplog.messages
        assert said.startswith("the labels are 1 to 8, and classes count from 0, so no image is of class 0; if yours")
    np.savez(tmp_path / "x.npz", images=images, labels=labels - 1)
    caplog.clear()
    open_source(tmp_path / "x.npz", "train")
    assert not caplog.messages


def test_tar_of_class_folders_is_one_part(make_tar, tmp_path):
    make_tar("t/all.tar", {f"{name}/{i}.png": i for name in ("žába", "b") for i in range(10)})
    parts = {split: open_source(tmp_path / "t", split) for split in ("train", "val", "all")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 16, "val": 4, "all": 20}
    assert sorted(contents(parts["train"]) + contents(parts["val"])) == sorted(contents(parts["all"]))
    assert list(parts["val"].classes) == ["b", "žába"]


def test_tar_refusals(make_tar, tmp_path):
    make_tar("range/x-train-0.tar", {"0.png": 0, "0.cls": b"0", "1.png": 0, "1.cls": b"1"})
    make_tar("range/x-val-0.tar", {"0.png": 0, "0.cls": b"7"})
    assert "label 7 of example 0 lies outside 0..1" in refusal(RequestError, tmp_path / "range", "val")
    make_tar("bare/x.tar", {"0.png": 0})
    assert "0.png has no label" in refusal(RequestError, tmp_path / "bare", "train")
    make_tar("empty/x.tar", {"readme.txt": b"x"})
    assert "hold no images" in refusal(RequestError, tmp_path / "empty", "train")
    make_tar("half/x-val-0.tar", {"a/0.png": 0})
    assert "none to train on" in refusal(RequestError, tmp_path / "half", "train")
    assert len(open_source(tmp_path / "half", "all")) == 1


@pytest.mark.parametrize("keep", [0.4, 0.85])
def test_tar_cut_short(make_tar, tmp_path, keep):
    path = make_tar("t/x.tar", {f"a/{i}.png": np.random.default_rng(i).bytes(3000) for i in range(8)})
    whole = open_source(tmp_path / "t", "all")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    text = refusal(WorkError, tmp_path / "t", "all")
    assert str(path) in text
    assert "cut short" in text
    with pytest.raises(BadImage, match=r"x\.tar/a/7\.png: the shard is cut short"):
        whole[7]  # the index was read before


def test_tar_index_is_kept_until_a_shard_changes(make_tar, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHED_FROM", 1)
    monkeypatch.setattr("crosscale.data.tar_shards.CACHED_FROM", 1)
    make_tar("t/x.tar", {"a/0.png": 5, "b/1.png": 6})
    first = contents(open_source(tmp_path / "t", "all"))
    with monkeypatch.context() as patch:
        patch.setattr("crosscale.data.tar_shards.read_index", lambda file: pytest.fail("read again"))
        assert contents(open_source(tmp_path / "t", "all")) == first
    make_tar("t/x.tar", {"a/0.png": 7, "b/1.png": 8, "b/2.png": 9})
    assert contents(open_source(tmp_path / "t", "all")) == [(7, 0), (8, 1), (9, 1)]


def test_archives_beside_an_image_folder_are_left_alone(make_folder, make_tar, grey):
    root = make_folder({"train/a/0.png": grey(1), "val/a/0.png": grey(2)}, "w")
    make_tar("w/ILSVRC2012_img_train.tar", {"n01.tar": b"x"})
    assert [value(open_source(root, split)[0]) for split in ("train", "val")] == [1, 2]


def test_parquet_shards(make_parquet, tmp_path):
    names = ["cat", "dog", "emu"]
    make_parquet("h/data/train-00000-of-00002.parquet", [0, 1, 2, 1, 0, 2], names)
    make_parquet("h/data/train-00001-of-00002.parquet", [2, 2], names)
    make_parquet("h/data/validation-00000-of-00001.parquet", [1], names)
    train, val = open_source(tmp_path / "h", "train"), open_source(tmp_path / "h", "val")
    assert list(train.classes) == list(val.classes) == names
    assert contents(train) == [(0, 0), (1, 1), (2, 2), (3, 1), (4, 0), (5, 2), (0, 2), (1, 2)]
    assert train[6].id == "train-00001-of-00002.parquet/0"
    assert contents(val) == [(0, 1)]


def test_parquet_of_one_part_with_named_labels(make_parquet, tmp_path):
    make_parquet("h/x.parquet", ["b", "a"] * 10, group=3)
    parts = {split: open_source(tmp_path / "h", split) for split in ("train", "val", "all")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 16, "val": 4, "all": 20}
    assert sorted(contents(parts["train"]) + contents(parts["val"])) == sorted(contents(parts["all"]))


def test_parquet_reads_each_row_group_once_an_epoch(make_parquet, tmp_path, monkeypatch):
    make_parquet("h/x-train-0.parquet", [i % 3 for i in range(40)], group=8)
    make_parquet("h/x-val-0.parquet", [0])
    source = open_source(tmp_path / "h", "train")
    monkeypatch.setattr("crosscale.data.parquet.CACHED_BYTES", 1)  # keeps one group at a time
    monkeypatch.setattr("crosscale.data.order.WINDOW", 8)
    reads = []
    original = type(source.rows)._group
    monkeypatch.setattr(
        type(source.rows),
        "_group",
        lambda self, g: (reads.append(g) if g not in self._cached else None, original(self, g))[1],
    )
    spec = InputSpec(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))
    with train_batches(
        source, ImageExamples(spec, Augment.none()), batch_size=8, seed=3, epochs=2, threads=0
    ) as batches:
        seen = [batch.index.tolist() for batch in batches]
    assert len(reads) == 10  # five groups in each of two epochs
    for epoch in (seen[:5], seen[5:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(40))
    assert seen[:5] != seen[5:]


def test_parquet_refusals(make_parquet, tmp_path):
    make_parquet("range/x-train-0.parquet", [0, 3], ["a", "b"])
    make_parquet("range/x-val-0.parquet", [0], ["a", "b"])
    assert "label 3 of example 1 lies outside 0..1" in refusal(RequestError, tmp_path / "range", "train")
    make_parquet("columns/x.parquet", [0], column="picture")
    assert "columns picture, label" in refusal(RequestError, tmp_path / "columns", "train")
    path = make_parquet("cut/x.parquet", [0] * 20)
    source = open_source(path.parent, "all")
    path.write_bytes(path.read_bytes()[:-200])
    text = refusal(WorkError, path.parent, "train")
    assert str(path) in text
    assert "cut short" in text
    with pytest.raises(BadImage, match=r"x\.parquet/19: .* cut short"):
        source[19]


def test_parquet_without_pyarrow_says_what_to_install(make_parquet, tmp_path):
    make_parquet("h/x.parquet", [0, 1])
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import crosscale.data as d\n"
        "try: d.open_source(sys.argv[1], 'train')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "h"], capture_output=True, text=True)
    assert "pip install 'crosscale[hub-datasets]'" in done.stdout, done.stderr


HUB_PROGRAM = """
import sys, crosscale.data as d
from crosscale.errors import RequestError, WorkError
try:
    source = d.open_source(sys.argv[1], "train")
    print(len(source), list(source.classes), source[0].target)
except (RequestError, WorkError) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_data_set_of_the_hub(make_parquet, tmp_path):
    file = make_parquet("files/data/train-0.parquet", [1, 0] * 5, ["a", "b"]).read_bytes()
    sha = "0123456789abcdef0123456789abcdef01234567"

    class Hub(http.server.BaseHTTPRequestHandler):
        def answer(self, body, status=200, **headers):
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            if not self.path.startswith(("/api/datasets/who/photos", "/datasets/who/photos")):
                return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
            if "/tree/" in self.path:
                files = [{"type": "file", "path": "data/train-0.parquet", "size": len(file), "oid": "1"}]
                return self.answer(json.dumps(files).encode(), Content_Type="application/json")
            if self.path.startswith("/api/"):
                facts = {"id": "who/photos", "sha": sha, "siblings": [{"rfilename": "data/train-0.parquet"}]}
                return self.answer(json.dumps(facts).encode(), Content_Type="application/json")
            return self.answer(file, X_Repo_Commit=sha, ETag='"1"')

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }

    def ask(name):
        command = [sys.executable, "-c", HUB_PROGRAM, name]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        return done.stdout.strip() or done.stderr

    try:
        assert ask("hf:who/photos") == "8 ['a', 'b'] 1"
        assert ask("hf:who/else").startswith("RequestError hf:who/else: no such data set")
    finally:
        server.shutdown()
    environment["HF_HUB_OFFLINE"] = "1"
    assert ask("hf:who/photos") == "8 ['a', 'b'] 1"
    assert ask("hf:who/other").startswith("WorkError hf:who/other: the hub cannot be reached")


def test_npz_of_one_part(tmp_path):
    images = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(20) % 2, classes=np.array(["a", "b"]))
    parts = {split: open_source(tmp_path / "x.npz", split) for split in ("train", "val", "all")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 16, "val": 4, "all": 20}
    assert list(parts["train"].classes) == ["a", "b"]
    assert [parts["all"][i].image[0, 0] for i in range(20)] == list(range(20))


def test_npz_with_splits(tmp_path):
    images = np.zeros((3, 4, 4, 3), np.uint8)
    arrays = {"train_images": images, "train_labels": np.array([[0], [1], [2]])}
    np.savez(tmp_path / "x.npz", **arrays, test_images=images[:1], test_labels=np.array([[2]]))
    train, val = (open_source(tmp_path / "x.npz", split) for split in ("train", "val"))
    assert list(train.classes) == list(val.classes) == ["0", "1", "2"]
    assert ([train[i].target for i in range(3)], val[0].target) == ([0, 1, 2], 2)


@pytest.mark.parametrize("start", [8, 30, 300])  # in the zip's own header, the array's, and its packed numbers
def test_npz_damaged_in_the_middle_is_one_line(tmp_path, start):
    packed = start == 300
    images = np.stack([np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) % 7] * 400)
    (np.savez_compressed if packed else np.savez)(tmp_path / "x.npz", images=images, labels=np.arange(400) % 2)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    start = start if start != 30 else data.index(b"'descr'")
    data[start : start + 20] = bytes(byte ^ 0xFF for byte in data[start : start + 20])
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises((RequestError, WorkError), match=r"x\.npz: (damaged or cut short|not an \.npz file)"):
        open_source(tmp_path / "x.npz", "all")


def test_npz_refusals(tmp_path):
    images = np.zeros((2, 4, 4), np.uint8)
    file = tmp_path / "x.npz"

    def save(**arrays):
        np.savez(file, **arrays)
        return file

    assert "expected images and labels" in refusal(RequestError, save(pictures=images), "train")
    outside = save(images=images, labels=np.array([0, 9]), classes=np.array(["a", "b"]))
    assert "the label 9 of example 1 lies outside 0..1" in refusal(RequestError, outside, "train")
    assert "label -1" in refusal(RequestError, save(images=images, labels=np.array([0, -1])), "train")
    assert "float64" in refusal(RequestError, save(images=images / 2.0, labels=np.array([0, 1])), "train")
    assert "for 3 labels" in refusal(RequestError, save(images=images, labels=np.array([0, 1, 1])), "train")
    data = save(images=images, labels=np.array([0, 1])).read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert "cut short" in refusal(WorkError, file, "train")
    np.savez(file, images=np.array([{}, {}]), labels=np.array([0, 1]))
    assert "plain arrays" in refusal(RequestError, file, "train")
    with file.open("wb") as stream:
        np.save(stream, images)
    assert "is a single array (.npy)" in refusal(RequestError, file, "train")
    far = save(images=images, labels=np.array([0, 10**9]))
    assert "the label 1,000,000,000 would make as many classes" in refusal(RequestError, far, "train")
