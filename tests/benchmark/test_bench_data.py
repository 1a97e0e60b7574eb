"""The input-path benchmark: its files, its rows, and the peer, as a stand-in process that speaks the protocol."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from crosscale.benchmark.data import Request, measure
from crosscale.benchmark.photos import SIZES, write_jpegs
from crosscale.cli.main import main
from crosscale.errors import RequestError, WorkError

SMALL = {"images": 4, "rounds": 1, "size": 32, "batch_size": 2, "threads": 1}

PEER = """\
#!{python}
import json, sys
if {broken!r} == "start": sys.exit("no torch here")
print(json.dumps({{"torch": "0"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if {broken!r} == "work": sys.exit(1)
    print(json.dumps({{"cpu": 2.0, "wall": 1.0, "images": request["count"]}}), flush=True)
"""


@pytest.fixture
def peer(tmp_path):
    def make(broken=""):
        path = tmp_path / f"peer{broken}"
        path.write_text(PEER.format(python=sys.executable, broken=broken))
        path.chmod(0o755)
        return str(path)

    return make


def test_files_have_the_sizes_they_should(tmp_path):
    mean = write_jpegs(tmp_path, 30, seed=1)
    files = sorted(tmp_path.rglob("*.jpg"))
    sizes = [Image.open(file).size for file in files]
    assert len(files) == 30
    assert set(sizes) <= {(width, height) for width, height, _ in SIZES}
    assert sizes.count((500, 375)) >= 5
    assert 20_000 < mean < 200_000
    again = tmp_path / "again"
    write_jpegs(again, 3, seed=1)
    assert [file.read_bytes() for file in sorted(again.rglob("*.jpg"), key=lambda file: file.name)] == [
        file.read_bytes() for file in sorted(files, key=lambda file: file.name)[:3]
    ]


def test_rows_and_ratios(peer):
    result = measure(Request(**SMALL, peer=peer(), fast=True))
    rows = {(row["stage"], row["who"]): row for row in result["rows"]}
    for stage in ("decode", "crop", "recipe", "loader"):
        assert rows[stage, "crosscale"]["per_core"] > 0
        assert rows[stage, "torch + timm"]["per_core"] == 2.0  # four pictures in two seconds
    assert rows["decode", "libjpeg-turbo"]["per_core"] > 0
    assert (rows["crop", "crosscale"]["wall"] is None, rows["loader", "crosscale"]["wall"] > 0) == (True, True)
    own = rows["loader", "crosscale"]["per_core"]
    assert result["ratios"]["loader: crosscale / torch + timm"] == pytest.approx(own / 2.0)
    assert "crop: crosscale, fast / torch + timm" in result["ratios"]
    assert 0 < result["fast_deviation"]["mean"] < 10
    assert np.isfinite([row["low"] for row in result["rows"]]).all()


def test_peer_that_cannot_run(peer):
    with pytest.raises(RequestError, match=r"cannot run torch and timm \(no torch here\)"):
        measure(Request(**SMALL, peer=peer("start")))
    with pytest.raises(WorkError, match="ended in the middle of stage 'decode'"):
        measure(Request(**SMALL, peer=peer("work")))


def test_verb(capsys, peer):
    words = ["--images", "4", "--rounds", "1", "--size", "32", "--batch-size", "2", "--threads", "1"]
    words += ["--train-steps", "0"]
    assert main(["bench", "--mode", "data", *words, "--json", "--peer-python", peer()]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {row["stage"] for row in result["rows"]} == {"decode", "crop", "recipe", "loader"}
    assert main(["bench", "--mode", "data", *words, "--fast"]) == 0
    shown = capsys.readouterr()
    assert "images/s per core" in shown.out
    assert "fast pixels differ from exact ones" in shown.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "speed"], "--mode speed is not one of infer, train, growth, start-up, data"),
        (["--mode", "data", "--images", "0"], "at least 1"),
        (["--mode", "data", "--images", "4"], "--batch-size 32 is larger than --images 4"),
        pytest.param(["--mode", "data", "--peer-python", "/no/such/python"], "/no/such/python", marks=pytest.mark.slow),
        ([], "--mode"),
    ],
)
def test_wrong_requests(words, message, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") <= 2
