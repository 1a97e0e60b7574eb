"""Data as people have it, through the command: what is printed, the exit status, and what remains."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import index_cache
from crosscale.data import scan as scanning
from crosscale.data.decode import open_image


@pytest.fixture
def run(capsys):
    """Runs a command; gives its exit status and what it wrote to standard error, which has no traceback."""

    def call(*words):
        status = main([str(word) for word in words])
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return status, error

    return call


@pytest.fixture
def small_disc(tmp_path):
    """Makes a file system of so many bytes."""
    mounted = []

    def make(size):
        disc = tmp_path / f"disc{len(mounted)}"
        disc.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disc]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small file system cannot be mounted here: it takes root on Linux")
        mounted.append(disc)
        return disc

    yield make
    for disc in mounted:
        subprocess.run(["umount", disc], check=True)


def test_extensions_in_any_case_and_files_that_are_no_data(make_folder, photo, encode, capsys):
    kinds = {"jpg": "JPEG", "JPEG": "JPEG", "Jpg": "JPEG", "PNG": "PNG", "webp": "WEBP", "BmP": "BMP", "TIFF": "TIFF"}
    files = {f"train/a/{i}.{extension}": encode(photo, kind) for i, (extension, kind) in enumerate(kinds.items())}
    others = (".7.jpg", "._8.jpg", ".DS_Store", "Thumbs.db", "9.jpg.part")
    hidden = {f"train/a/{name}": b"no picture" for name in others}
    root = make_folder(files | hidden | {"val/a/0.jpeg": encode(photo, "JPEG"), "train/.trash/0.jpg": b"x"})
    assert main(["data", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["counts"] == {"a": 7}


def test_index_on_a_full_disc(make_folder, grey, small_disc, monkeypatch, run, caplog):
    root = make_folder({f"{name}/{'long' * 40}{i}.png": grey(i) for name in "ab" for i in range(60)})
    for folder in (root, *root.iterdir()):
        stamp = 1_000_000_000 * 10**9
        os.utime(folder, ns=(stamp, stamp))
    disc = small_disc("8k")
    monkeypatch.setenv("CROSSCALE_CACHE", str(disc))
    monkeypatch.setattr(scanning, "CACHED_FROM", 1)
    for _ in range(2):  # the second finds no half of an index
        caplog.clear()
        assert run("data", root)[0] == 0
        assert f"{disc / 'index'}: the index cannot be kept for next time (No space left on device)" in caplog.text
        assert [path for path in disc.rglob("*") if path.is_file()] == []
    assert index_cache.load_index("folder", str(root.resolve()), "a", "b") is None


def test_writing_to_a_full_disc(small_disc, tmp_path, run):
    disc = small_disc("96k")
    status, error = run("data", "digits", "--write", disc / "out")
    assert status == 1
    last = error.strip().splitlines()[-1]
    assert last.startswith(f"crosscale data: error: {disc / 'out'}")
    assert last.endswith("cannot be written (No space left on device); the files before it are whole")
    files = list((disc / "out").rglob("*.png"))
    assert len(files) > 3
    assert all(open_image(file).endswith(b"IEND\xaeB`\x82") for file in files)
    shutil.rmtree(disc / "out")
    assert run("data", "digits", "--write", tmp_path / "elsewhere")[0] == 0


def test_lines_of_what_is_refused(make_folder, grey, encode, tmp_path, run):
    flat = {"train/cat/0.png": grey(0), "train/dog/0.png": grey(1), "val/x.png": grey(0), "val.txt": b"x.png 2\n"}
    cases = [
        (make_folder({"Cat/0.png": grey(0), "cat/1.png": grey(1)}, "case"), 2, "'Cat' and 'cat' differ only in case"),
        (make_folder(flat, "range"), 2, "val.txt:1: the label 2 lies outside 0..1"),
        (make_folder({"x-train-0.tar": b"\0" * 400}, "cut"), 1, "x-train-0.tar: the shard is cut short"),
        (tmp_path / "nothing", 2, "no such folder; give one with train/<class>/*.jpg"),
    ]
    for root, expected, line in cases:
        status, error = run("data", root)
        assert (status, error.count("\n")) == (expected, 1), error
        assert line in error


def test_places_that_cannot_be_written(tmp_path, run):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "out", "/proc/out"):
        if out == "/proc/out" and not sys.platform.startswith("linux"):
            continue
        status, error = run("data", "digits", "--write", out)
        assert (status, error.count("\n")) == (1, 1), error
        assert str(out) in error


def test_photograph_cut_in_half_is_told_by_name(make_folder, photo, encode, run, tmp_path):
    whole = encode(photo, "JPEG")
    root = make_folder({"train/a/0.jpg": whole, "train/a/half.jpg": whole[: len(whole) // 2], "val/a/0.jpg": whole})
    status, error = run("data", root, "--write", tmp_path / "out")
    assert status == 1
    assert re.search(r"train/a/half\.jpg: the (file is truncated|image data is damaged)", error)
    assert Image.open(tmp_path / "out" / "train" / "a" / "0.png").size == photo.size
