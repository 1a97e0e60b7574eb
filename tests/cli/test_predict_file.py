"""`crosscale predict --output FILE`: the formats, and a run that is killed and goes on."""

import csv
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.predictor import Predictor
from crosscale.runs.results_file import ResultsFile, flat

COUNT, BATCH = 30, 4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Digits, and one file that is no picture."""
    root = tmp_path_factory.mktemp("pictures")
    source = open_source("digits", "val")
    for index in range(COUNT):
        Image.fromarray(source[index].image).save(root / f"{index:02}.png")
    (root / "05.png").write_text("no picture")
    return root


def predict(capsys, *words, status=0):
    assert main(["predict", *map(str, words)]) == status
    return capsys.readouterr()


@pytest.fixture(scope="module")
def expected(tiny_run, pictures):
    return list(Predictor.from_run(tiny_run).predict(sorted(pictures.iterdir()), batch_size=BATCH, top_k=2))


@pytest.fixture
def words(tiny_run, pictures):
    return ["--run", tiny_run, pictures, "--batch-size", BATCH, "--top-k", 2]


@pytest.mark.slow
def test_every_format_says_what_the_library_says(capsys, words, expected, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    for suffix in ("jsonl", "csv", "parquet"):
        file = tmp_path / f"results.{suffix}"
        captured = predict(capsys, *words, "--output", file, status=1)
        assert captured.out == f"{file}\n"
        assert captured.err.splitlines()[-1] == f"crosscale predict: 1 of {COUNT} files could not be used"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.jsonl", "results.parquet"]
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert lines == [result.json() for result in expected]
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert list(rows[0]) == list(table[0]) == ["path", "class", "probability", "class_2", "probability_2", "error"]
    for row, cells, result in zip(rows, table, expected, strict=True):
        assert row["path"] == cells["path"] == result.source
        assert (row["error"] or None) == cells["error"] == result.error
        if result.error is None:
            assert (row["class"], row["class_2"]) == (cells["class"], cells["class_2"]) == result.classes
            assert (float(row["probability"]), cells["probability_2"]) == result.probabilities


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_file(capsys, tiny_run, pictures, tmp_path):
    """So many files that the run is far from its end where it is killed."""
    many, total = tmp_path / "many", 100 * COUNT
    many.mkdir()
    for index in range(total):
        os.link(pictures / f"{index % COUNT:02}.png", many / f"{index:04}.png")
    words = ["--run", tiny_run, many, "--batch-size", BATCH, "--top-k", 2]
    predict(capsys, *words, "--output", tmp_path / "whole.csv", "--sort-into", tmp_path / "whole", status=1)
    words += ["--sort-into", tmp_path / "sorted"]
    file, partial = tmp_path / "results.csv", tmp_path / "results.csv.partial"
    command = [sys.executable, "-m", "crosscale", "predict", *map(str, words), "--output", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not partial.exists() or partial.read_bytes().count(b"\n") < 1 + 3 * BATCH:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert not file.exists()
    refused = predict(capsys, *words, "--output", file, status=2).err
    assert "a run that was stopped left" in refused
    assert "--resume goes on with them" in refused
    other = predict(capsys, *words, "--top-k", 3, "--output", file, "--resume", status=2).err
    assert "was begun with options={'top_k': 2, 'tta': []}, not {'top_k': 3, 'tta': []}" in other
    with partial.open("ab") as stream:
        stream.write(b'{"source": "torn')
    found = json.loads(predict(capsys, *words, "--output", file, "--resume", "--json", status=1).out)
    assert (found["images"], found["failed"]) == (total, 100)
    assert 0 < found["predicted"] <= total - 3 * BATCH
    assert file.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert tree(tmp_path / "sorted") == tree(tmp_path / "whole")
    again = predict(capsys, *words, "--output", file, "--resume")
    assert "results.csv is complete; without --resume it is written anew" in again.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume"], "--resume goes with --output results.csv, .parquet or .jsonl"),
        (["--output", "folder", "--resume"], "--resume goes with --output results.csv, .parquet or .jsonl"),
        (["--tta", "flips,crop"], "--tta crop: one or several of flips, crops, scales; did you mean 'crops'"),
        (["--output", "results.xlsx"], "--output results.xlsx: a file of results ends in .csv, .parquet or .jsonl"),
        (["--output", "/no/such/place.csv"], "--output /no/such/place.csv: there is no folder /no/such"),
    ],
)
def test_wrong_requests_are_one_line(capsys, words, more, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = predict(capsys, *words, *more, status=2).err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_several_processes_write_no_file(capsys, words, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    said = predict(capsys, *words, "--output", tmp_path / "r.csv", status=2).err
    assert "r.csv: one process writes a file; several write a folder" in said
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_lines_tell_how_far_it_is(capsys, words, tmp_path, monkeypatch):
    monkeypatch.setattr("crosscale.cli.predict_file._TELL_SECONDS", -1.0)
    lines = predict(capsys, *words, "--output", tmp_path / "r.csv", status=1).err.splitlines()
    told = [line for line in lines if "images/s, about " in line]
    assert len(told) == COUNT
    assert told[9].startswith(f"crosscale predict: 10 of {COUNT}, ")


def test_two_runs_do_not_write_one_file(tmp_path, capsys, words):
    with ResultsFile(tmp_path / "r.csv", {}, resume=False):
        assert "another process is writing it" in predict(capsys, *words, "--output", tmp_path / "r.csv", status=2).err


def test_only_whole_parts_are_kept_and_a_picture_given_twice_counts_twice(tmp_path):
    with ResultsFile(tmp_path / "r.jsonl", {"a": [1]}, resume=False, part=2) as file:
        for name in ("x", "y", "x", "z", "y"):
            file.add({"source": name, "error": None})
    with ResultsFile(tmp_path / "r.jsonl", {"a": (1,)}, resume=True, part=2) as file:
        assert file.count == 4
        assert file.remaining(["x", "y", "x", "z", "y", "w"]) == ["y", "w"]


def test_rows_of_other_tasks(tmp_path):
    """Mappings become columns, texts are joined, numbers keep their type; what is missing is empty."""
    plain = {"labels": ["cat", "dog"], "probabilities": {"cat": 0.5, "dog": 1}, "size": [3, 4], "none": None}
    assert flat(plain) == {
        "labels": "cat|dog", "probabilities/cat": 0.5, "probabilities/dog": 1, "size": "[3, 4]", "none": None
    }  # fmt: skip
    pq = pytest.importorskip("pyarrow.parquet")
    odd = os.fsdecode(b"b\xff.png")
    results = [
        {"source": odd, "error": "empty"},
        {"source": "a.png", "count": 2, "mixed": 1, "error": None},
        {"source": "c.png", "count": 3, "mixed": 0.5, "error": None},
    ]
    for suffix in ("csv", "parquet"):
        with ResultsFile(tmp_path / f"r.{suffix}", {}, resume=False) as file:
            for result in results:
                file.add(result)
            file.finish(lambda result: {k: v for k, v in result.items() if k not in ("source", "error")})
    assert (tmp_path / "r.csv").read_bytes().splitlines()[:2] == [b"path,count,mixed,error", b"b\xff.png,,,empty"]
    table = pq.read_table(tmp_path / "r.parquet")
    assert table.column("count").to_pylist() == [None, 2, 3]
    assert [str(table.schema.field(name).type) for name in ("count", "mixed", "error")] == ["int64", "double", "string"]
    assert np.isclose(table.column("mixed").to_pylist()[2], 0.5)
