"""Names and terminals that others have: escapes, bytes that are no text, narrow encodings, pipes and devices."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from crosscale.cli.main import main
from crosscale.cli.output import free_name, note, print_json, print_table, short_stem
from crosscale.data.decode import BadImage, decode, open_image, upright_size
from crosscale.engine.log import RunLog
from crosscale.engine.run_folder import write_text
from crosscale.errors import RequestError
from crosscale.runs.embed import Embedded, write_embedded
from crosscale.runtime import Lasting, printable
from crosscale.weights.files import write_tensors


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u72ac.png", "caf\u00e9 \u72ac.png"),
        ("\x1b[2J\x1b]0;owned\x07.png", "\\x1b[2J\\x1b]0;owned\\x07.png"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\udce9.png"),
        ("a\rb\u202eb", "a\\rb\\u202eb"),
        ("two\nlines\there", "two\nlines\there"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(capsys, text, shown):
    assert printable(text) == shown
    note(text)
    assert capsys.readouterr().err == f"{shown}\n"
    if "\n" not in text:
        print_table(["image"], [[text]])
        assert shown in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_results_are_printed_whatever_the_encoding(monkeypatch, encoding):
    out, err = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["predict", "--run", "no-such-\u72ac", "no-such-\udce9.png"]) == 2
    names = {"source": "\u72ac\udce9\u00e9 \x1b"}
    print_json(names)
    out.flush()
    assert json.loads(out.buffer.getvalue().decode(encoding)) == names
    err.flush()
    assert b"no-such-\\udce9.png: no such file" in err.buffer.getvalue()


@pytest.mark.parametrize(("closed", "status"), [("stdout", 0), ("stderr", 0), ("stderr", 2)])
def test_streams_that_were_closed_before_the_start(monkeypatch, capsys, closed, status):
    monkeypatch.setattr(sys, closed, None)
    assert main(["models", "crossvit_9_240"] if status == 0 else ["models", "no-such-model"]) == status
    monkeypatch.undo()
    out = capsys.readouterr().out
    assert ("crossvit_9_240" in out) == (closed == "stderr" and status == 0)
    assert "error" not in out  # what belongs on standard error is not put there


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EPIPE])
def test_work_goes_on_where_standard_error_takes_nothing(monkeypatch, capsys, code):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sys, "stderr", Gone())
    note("a full disc, a terminal that is gone, a pipe that nobody reads")
    assert main(["models", "crossvit_9_240"]) == 0
    assert Lasting(Gone()).write("text") == 4
    assert "crossvit_9_240" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "link to a device"])
def test_what_never_ends_is_no_file(tmp_path, kind):
    place = tmp_path / "a.png"
    if kind.endswith("device"):
        place = "/dev/zero"
    else:
        os.mkfifo(place)
    if kind.startswith("link"):
        (tmp_path / "link.png").symlink_to(place)
        place = tmp_path / "link.png"
    for reads in (open_image, lambda path: upright_size(Path(path), "a.png")):
        with pytest.raises(BadImage, match="a pipe or device, not a file"):
            reads(place)


@pytest.mark.parametrize("name", ["a.jpg", "a.eps"])
def test_postscript_is_handed_to_nobody(monkeypatch, name):
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *words, **more: pytest.fail("ran"))
    with pytest.raises(BadImage, match="not an image in a format that Pillow reads"):
        decode(data.getvalue(), 3, name)


def test_a_loader_whose_parent_is_gone_ends():
    script = (
        "import sys, time\nfrom crosscale.data.loader_process import init_worker\n"
        "init_worker(0, 1, parent=int(sys.argv[1]))\ntime.sleep(60)\nsys.exit(7)"
    )
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert subprocess.run([sys.executable, "-c", script, str(gone.pid)], timeout=50, check=False).returncode == 1


@pytest.mark.parametrize("name", ["-dash.png", "--help", "-h", "--json", "--"])
def test_words_after_two_dashes_are_files(tiny_run, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("plain.png")
    os.rename("plain.png", name)
    assert main(["predict", "--run", str(tiny_run), "--json", "--", name]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert (prediction["source"], prediction["error"]) == (name, None)


@pytest.mark.parametrize("megabytes", [2, 9])
def test_a_png_with_much_text_is_a_picture(megabytes):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("notes", "x" * (megabytes << 20), zip=True)
    notes.add_itxt("XML:com.adobe.xmp", "y" * (2 << 20), zip=True)
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(data, "PNG", pnginfo=notes)
    assert decode(data.getvalue(), 3, "x").getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("name", ["x.npz", "x.onnx", "x", "x.safetensor"])
def test_weights_are_not_written_under_anothers_name(tmp_path, name):
    with pytest.raises(RequestError, match=r"weights are written as \.safetensors or \.pth, \.pt, \.bin"):
        write_tensors(tmp_path / name, {"a": np.ones(2, np.float32)})
    assert not list(tmp_path.iterdir())


def test_files_of_one_name_never_overwrite_each_other():
    taken: dict[str, int] = {}
    stems = ("a", "a", "a-2", "A", "b")
    assert [free_name(stem, taken) for stem in stems] == ["a", "a-2", "a-2-2", "A-3", "b"]


def test_a_long_name_leaves_room_for_what_is_put_behind_it(tmp_path):
    for name in ("x" * 251 + ".png", "ü" * 125 + ".jpg"):
        (tmp_path / f"{short_stem(Path(name))}-1000000_overlay.png").write_bytes(b"")
    assert short_stem(Path("short.png")) == "short"


def test_free_names_are_found_without_trying_every_number():
    class Counted(dict):
        looks = 0

        def __contains__(self, key):
            Counted.looks += 1
            return super().__contains__(key)

    taken = Counted()
    assert [free_name("a", taken) for _ in range(1000)][-1] == "a-1000"
    assert Counted.looks < 3000


def test_names_that_are_no_text_go_into_files(tmp_path):
    """Finished work is not lost while its name is written."""
    name = os.fsdecode(b"caf\xe9\x1b.png")
    write_text(tmp_path / "page.html", name)
    assert (tmp_path / "page.html").read_text() == "caf\\udce9\x1b.png"
    with RunLog(tmp_path, start_step=0, start_epoch=0.0, total_steps=1) as log:
        log.here(f"skipped: {name}: damaged")
    assert (tmp_path / "log.txt").read_text().endswith("skipped: caf\\udce9\\x1b.png: damaged\n")
    pq = pytest.importorskip("pyarrow.parquet")
    write_embedded(Embedded((name,), (np.zeros((1, 2), np.float32),), ()), tmp_path / "e.parquet")
    assert pq.read_table(tmp_path / "e.parquet")["path"].to_pylist() == ["caf\\udce9\x1b.png"]
