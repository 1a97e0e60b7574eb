"""Trackers: what each of them holds afterwards, read by its own reader; one that fails costs no training."""

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crosscale.engine.log import RunLog
from crosscale.engine.trackers import IDENTITY, Tracked, Trackers, check_trackers
from crosscale.errors import RequestError

RECIPE = {"optimizer": {"lr": 0.5, "betas": [0.9, 0.999]}, "model": {"name": "toy", "options": {}}}


def train(folder: Path, trackers: list[str], *, start: int = 0, steps: tuple[int, ...] = (1, 2)) -> str:
    """A run's log with these steps; returns its text."""
    folder.mkdir(exist_ok=True)
    with RunLog(folder, start_step=start, start_epoch=start, total_steps=9, trackers=trackers, recipe=RECIPE) as log:
        for step in steps:
            log.record("train", step, {"loss": 1 / step, "epoch": step})
        log.record("validate", steps[-1], {"epoch": steps[-1], "top1": 0.75, "auroc": float("nan")})
    return (folder / "log.txt").read_text()


class Broken:
    """A tracker that works for a while."""

    def __init__(self, works: int) -> None:
        self.works, self.calls = works, 0

    def log(self, step: int, values: Any) -> None:
        self.calls += 1
        print("chatter")
        if self.calls > self.works:
            raise ConnectionError("no answer\nfrom the server")

    def close(self, *, failed: bool) -> None:
        raise AssertionError("a tracker that was left out is asked no more")


def test_a_tracker_that_fails_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Broken(works=1)
    monkeypatch.setattr("crosscale.engine.trackers._KINDS", {"mlflow": lambda run: broken})
    text = train(tmp_path / "run", ["mlflow"])
    assert "tracker mlflow: left out from here on (ConnectionError: no answer from the server)" in text
    assert broken.calls == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert capsys.readouterr().out == ""  # which a command's JSON has for itself


def test_a_tracker_that_does_not_begin_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Tracked) -> Any:
        raise PermissionError("no key")

    monkeypatch.setattr("crosscale.engine.trackers._KINDS", {"wandb": refuse})
    told: list[str] = []
    trackers = Trackers(["wandb"], Tracked(tmp_path, 0, {}), told.append)
    trackers.log(1, {"train/loss": 1.0})
    trackers.close()
    assert told == ["tracker wandb: left out from here on (PermissionError: no key)"]


def test_how_a_run_ended_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[bool] = []

    class Plain(Broken):
        def close(self, *, failed: bool) -> None:
            ends.append(failed)

    monkeypatch.setattr("crosscale.engine.trackers._KINDS", {"wandb": lambda run: Plain(99)})
    train(tmp_path / "run", ["wandb", "wandb"])
    with (
        pytest.raises(ValueError, match="boom"),
        RunLog(tmp_path / "run", start_step=0, start_epoch=0, total_steps=9, trackers=["wandb"]),
    ):
        raise ValueError("boom")
    assert ends == [False, True]


def test_one_that_is_not_installed_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(
        RequestError, match=r"train.trackers: trackio is not installed: pip install 'crosscale\[trackio\]'"
    ):
        check_trackers(["tensorboard", "trackio"])


def test_a_folder_of_its_name_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B makes a folder wandb/ where it works."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "wandb")
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(RequestError, match="wandb is not installed"):
        check_trackers(["wandb"])


def test_a_run_is_the_same_to_a_tracker_when_it_goes_on(tmp_path: Path) -> None:
    begun = Tracked(tmp_path, 0, {}).identity("wandb", lambda: "first")
    assert begun == "first"
    assert Tracked(tmp_path, 5, {}).identity("wandb", lambda: "second") == "first"
    assert Tracked(tmp_path, 5, {}).identity("mlflow", lambda: "third") == "third"
    assert Tracked(tmp_path, 0, {}).identity("wandb", lambda: "fourth") == "fourth"  # begun anew
    (tmp_path / IDENTITY).write_text("{")
    assert Tracked(tmp_path, 5, {}).identity("wandb", lambda: "fifth") == "fifth"


def test_tensorboards_own_reader_finds_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path / "run", ["tensorboard"], steps=(1, 2, 3))
    # Another process goes on, and step 3 comes again; its file's name, of the same second, is the later one.
    monkeypatch.setattr("os.getpid", lambda: 9_999_999)
    train(tmp_path / "run", ["tensorboard"], start=2, steps=(3, 4))
    found = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
        (4, 0.25),
    ]
    assert "validate/auroc" not in found.Tags()["scalars"]


def library(name: str) -> ModuleType:
    """The tracker's library; skips where there is none, or a folder of its name alone."""
    found: ModuleType = pytest.importorskip(name)
    if found.__file__ is None:
        pytest.skip(f"{name} is not installed")
    return found


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, which is a log of LevelDB's format (doc/log_format.md there) behind 7 bytes: chunks
    of checksum, length, kind (1 whole, 4 the last one of several) and contents, in blocks of 32 KiB."""
    at, record = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_offline_holds_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    text = train(tmp_path / "run", ["wandb"])
    train(tmp_path / "run", ["wandb"], start=2, steps=(3,))
    assert "left out" not in text + (tmp_path / "run" / "log.txt").read_text()
    from wandb.proto import wandb_internal_pb2

    rows: list[dict[str, Any]] = []
    runs = set()
    for file in sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                runs.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3)}
    assert len(runs) == 1  # the run that goes on is the same one


@pytest.mark.slow
def test_mlflow_holds_the_numbers_in_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = train(tmp_path / "run", ["mlflow"])
    train(tmp_path / "run", ["mlflow"], start=2, steps=(3,))
    assert "left out" not in text + (tmp_path / "run" / "log.txt").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("crosscale")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["optimizer.lr"] == "0.5"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


@pytest.mark.slow
def test_trackio_holds_the_numbers_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    library("trackio")
    text = train(tmp_path / "run", ["trackio"])
    train(tmp_path / "run", ["trackio"], start=2, steps=(3,))
    assert "left out" not in text + (tmp_path / "run" / "log.txt").read_text()
    found = []
    for file in (tmp_path / "trackio").rglob("*.db"):
        with sqlite3.connect(file) as database:
            found += [
                (step, json.loads(values)) for step, values in database.execute("SELECT step, metrics FROM metrics")
            ]
    losses = {step: values["train/loss"] for step, values in found if "train/loss" in values}
    assert losses == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3)}
