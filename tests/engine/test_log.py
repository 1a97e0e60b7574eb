"""The run's files: one line per record, none twice after a resume, readable by TensorBoard's own format."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from crosscale.engine.log import CollectedLog, RunLog, truncate_metrics
from crosscale.errors import RequestError, WorkError


def open_log(folder: Path, start_step: int = 0, start_epoch: int = 0) -> RunLog:
    return RunLog(folder, start_step=start_step, start_epoch=start_epoch, total_steps=10)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_records_are_lines_of_json_with_null_for_nan(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.record("train", 5, {"loss": 0.5, "rate": float("nan")})
        assert lines(tmp_path) == [{"kind": "train", "step": 5, "loss": 0.5, "rate": None}]  # at once


def test_a_resumed_log_drops_what_comes_again(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for step in (2, 4, 6):
            log.record("train", step, {"loss": float(step)})
        log.record("validate", 4, {"epoch": 1, "top1": 0.5})
        log.record("validate", 6, {"epoch": 2, "top1": 0.6})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # cut off in the middle of a line
    with open_log(tmp_path, start_step=6, start_epoch=1) as log:
        log.record("validate", 6, {"epoch": 2, "top1": 0.6})
    assert [(line["kind"], line["step"]) for line in lines(tmp_path)] == [
        ("train", 2),
        ("train", 4),
        ("train", 6),
        ("validate", 4),
        ("validate", 6),
    ]


def test_a_run_from_step_0_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    truncate_metrics(tmp_path / "metrics.jsonl", 0, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_lines_go_to_standard_error_and_the_text_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_log(tmp_path) as log:
        log.line("epoch 1 [done]")
        log.window_line(5, "step 5/10")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "epoch 1 [done]\nstep 5/10\n"
    assert "epoch 1 [done]" in (tmp_path / "log.txt").read_text()


def test_what_ends_a_run_is_in_its_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), open_log(tmp_path):
        raise ValueError("boom")
    assert "ended by ValueError: boom" in (tmp_path / "log.txt").read_text()


def test_tensorboard_holds_the_numbers(tmp_path: Path) -> None:
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401 - the extra that writes them
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter  # noqa: F401

    with open_log(tmp_path) as log:
        log.record("train", 3, {"loss": 0.25})
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, found = file.read_bytes(), []
    while data:  # TFRecord: length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    assert found == [("train/loss", 3, 0.25)]


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_a_folder_that_is_gone_is_told(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with open_log(folder) as log:
        log.check_place()
        folder.rename(tmp_path / "moved")
        if how == "replaced":
            folder.mkdir()
            (folder / "metrics.jsonl").touch()
        if how == "deleted":
            shutil.rmtree(tmp_path / "moved")
        with pytest.raises(WorkError, match="moved or deleted"):
            log.check_place()


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str, there: bool) -> None:
    target, folder = tmp_path / "target", tmp_path / "run"
    if there:
        target.write_text("mine")
    folder.mkdir()
    (folder / name).symlink_to(target)
    with pytest.raises(RequestError, match=f"{name}: is a link to {target}"):
        RunLog(folder, start_step=0, start_epoch=0, total_steps=10)
    assert target.exists() == there
    assert not there or target.read_text() == "mine"


def test_lines_before_the_run_log_are_kept_and_shown_nowhere(capsys):
    """Nor does anything of it stay behind: another INFO line is as silent as before."""
    logger = logging.getLogger("crosscale.somewhere")
    with CollectedLog() as collected:
        logger.info("a line")
    logger.info("another")
    assert collected.lines == ["a line"]
    assert capsys.readouterr().err == ""
