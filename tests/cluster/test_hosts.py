"""Several processes as one program: really started, really killed, and the same numbers as one."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscale.artifact import read_artifact
from crosscale.cli.arguments import Parser, add_host_options, host_options
from crosscale.cluster.hosts import Start, all_texts, from_first, stop_signals, sums, together
from crosscale.cluster.stop import StopSignals
from crosscale.errors import RequestError
from crosscale.runs.calibrate import calibrate_run
from crosscale.runs.validate import HeldOut
from tests.engine.clusters import Cluster, records, train
from tests.reliability.record import trying


def asked(*words: str) -> Start | None:
    parser = Parser("train", description="", epilog="")
    add_host_options(parser)
    return host_options(parser.parse(words))


def test_options_of_several_processes() -> None:
    assert asked() is None
    assert asked("--distributed") == Start()
    three = ("--coordinator", "a:1", "--num-processes", "2", "--process-id", "1")
    assert asked(*three) == Start("a:1", 2, 1)
    with pytest.raises(RequestError, match="--process-id is missing"):
        asked(*three[:4])
    with pytest.raises(RequestError, match="give it alone"):
        asked("--distributed", *three)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Start("a:1", 2, 2), "--process-id 2: must lie in 0..1"),
        (Start("a", 2, 0), "--coordinator a: must be HOST:PORT"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(start: Start, message: str) -> None:
    with pytest.raises(RequestError, match=message), together(start):
        pass


def test_one_process_is_alone() -> None:
    with together(None):
        assert (from_first("a"), all_texts("b"), sums([1, 2])) == ("a", ["b"], [1, 2])
        assert isinstance(stop_signals(), StopSignals)


@pytest.mark.slow
def test_no_cluster_is_an_error_that_says_what_to_give() -> None:
    words = [sys.executable, "-m", "crosscale", "train", "--config", "smoke", "--distributed"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("crosscale train: error: --distributed: no cluster was detected")
    assert len(done.stderr.splitlines()) == 1


def documented() -> list[list[str]]:
    """The commands in the documentation's examples, as words after `crosscale train`."""
    text = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    joined = re.sub(r"\\\n\s*|(?<=\S)\n {22}(?=\S)", " ", blocks)
    commands = re.findall(r"crosscale train (.*?)(?:'?\n| &\n)", joined)
    return [shlex.split(command.split("  #")[0].replace("$JOB_COMPLETION_INDEX", "1")) for command in commands]


def test_documented_commands_are_understood() -> None:
    starts = []
    for words in documented():
        parser = Parser("train", description="", epilog="")
        add_host_options(parser)
        for name in ("--config", "--data-dir", "--output-dir"):
            parser.add_argument(name, required=name != "--data-dir")
        parser.add_argument("--resume", action="store_true")
        starts.append(host_options(parser.parse(words)))
    on_nodes = [Start("node1:8476", 2, 0), Start("node1:8476", 2, 1)]
    in_pods = Start("crosscale-train-0-0.crosscale:8476", 2, 1)
    here = [Start("localhost:8476", 2, 0), Start("localhost:8476", 2, 1)]
    assert starts == [*on_nodes, Start(), Start(), in_pods, Start(), *here]


SLURM = {"SLURM_JOB_ID": "{job}", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "{job}.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("common", "own"),
    [
        (SLURM, ("SLURM_PROCID", "SLURM_LOCALID")),
        (OPEN_MPI, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")),
    ],
)
def test_a_cluster_is_detected(tmp_path: Path, common: dict[str, str], own: tuple[str, ...]) -> None:
    job = str(4096 * 17 + os.getpid() % 4096) if "SLURM_JOB_ID" in common else str(4096 * (os.getpid() % 4096))
    shared = {name: value.format(job=job) for name, value in common.items()}
    envs = [{**shared, **dict.fromkeys(own, str(i))} for i in range(2)]
    words = train(tmp_path / "run", "--train.epochs", "1", "--schedule.warmup_epochs", "0", "--distributed")
    with Cluster(tmp_path / "logs", 1, words, processes=2, envs=envs) as two:
        assert two.ends() == [0, 0], two.errors(0) + two.errors(1)
        assert "2 x " in two.errors(0)
        assert two.errors(1) == ""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one device."""
    folder = tmp_path_factory.mktemp("one")
    with Cluster(folder / "logs", 1, train(folder / "run")) as alone:
        assert alone.ends() == [0], alone.errors(0)
    return folder / "run"


def assert_same(found: Path, expected: Path) -> None:
    """The numbers of two runs, step by step, to float32's rounding; counts to the last."""
    pairs = list(zip(records(found), records(expected), strict=True))
    assert sum(record["kind"] == "train" for record, _ in pairs) == 15
    for record, wanted in pairs:
        assert (record["kind"], record["step"]) == (wanted["kind"], wanted["step"])
        assert record.get("examples") == wanted.get("examples")
        for name in {"loss", "train_loss"} & set(wanted):
            np.testing.assert_allclose(record[name], wanted[name], rtol=1e-5, err_msg=f"{record['kind']} {name}")


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (8, 1), (8, 8), (8, 2)])
def test_a_run_on_many_devices_is_that_on_one(tmp_path: Path, one: Path, devices: int, fsdp: int) -> None:
    with Cluster(tmp_path / "logs", devices, train(tmp_path / "run", "--mesh.fsdp", str(fsdp))) as alone:
        assert alone.ends() == [0], alone.errors(0)
    assert_same(tmp_path / "run", one)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 8])
def test_two_processes_are_one_and_the_first_alone_writes(tmp_path: Path, one: Path, fsdp: int) -> None:
    run = tmp_path / "run"
    with Cluster(tmp_path / "logs", 4, train(run, "--mesh.fsdp", str(fsdp)), processes=2) as two:
        assert two.ends() == [0, 0], two.errors(0) + two.errors(1)
        assert two.errors(1) == ""
        assert str(run) in two.output(0)
        assert str(run) not in two.output(1)
        pids = [process.pid for process in two.processes]
    assert_same(run, one)
    events = [path.name for path in (run / "tensorboard").iterdir()]
    assert [f".{pids[0]}" in name for name in events] == [True]
    assert (run / "log.txt").read_text().count("8 x ") == 1
    sizes = {name: (run / "best" / name).stat().st_size for name in ("model.safetensors",)}
    assert sizes == {name: (one / "best" / name).stat().st_size for name in sizes}
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.slow
def test_two_processes_validate_and_predict_as_one(tmp_path: Path, one: Path) -> None:
    images = tmp_path / "images"
    pictures = [sys.executable, "-m", "crosscale", "data", "digits", "--write", str(images)]
    subprocess.run(pictures, check=True, capture_output=True)
    files = sorted(str(path) for path in (images / "val").rglob("*.png"))[::40]
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    for words, status in (
        (["validate", "--run", str(one), "--json"], 0),
        (["predict", "--run", str(one), "--json", *files[:4], str(bad), *files[4:]], 1),
    ):
        found = []
        for processes in (1, 2):
            with Cluster(tmp_path / f"logs{processes}", 2, words, processes=processes) as some:
                assert some.ends() == [status] * processes, some.errors(0)
                found.append(json.loads(some.output(0).splitlines()[-1]))
                assert "{" not in "".join(some.output(i) for i in range(1, processes))
        assert_close(found[1], found[0])


@pytest.mark.slow
def test_two_processes_calibrate_as_the_command_does_for_one(tmp_path: Path, one: Path) -> None:
    run, alone = tmp_path / "run", shutil.copytree(one, tmp_path / "alone")
    with Cluster(tmp_path / "logs", 1, train(run, "--validate.calibrate", "true"), processes=2) as two:
        assert two.ends() == [0, 0], two.errors(0) + two.errors(1)
        assert two.errors(0).count("calibrated: temperature ") == 1
    wanted = calibrate_run(alone, HeldOut())["temperature"]
    assert read_artifact(run / "best").task_options["temperature"] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_what_two_processes_collect_of_each_example_is_what_one_does(tmp_path: Path, one: Path) -> None:
    script = [sys.executable, str(Path(__file__).with_name("collected_rows.py")), str(one)]
    root = str(Path(__file__).parents[2])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    found = []
    for processes, devices in ((1, 1), (1, 8), (2, 2)):
        flags = f"--xla_force_host_platform_device_count={devices}"
        env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": root}
        wheres = [[place, "2", str(i)] for i in range(2)] if processes == 2 else [[]]
        some = [subprocess.Popen([*script, *where], env=env, stdout=subprocess.PIPE, text=True) for where in wheres]
        said = [process.communicate(timeout=200)[0] for process in some]
        assert [process.returncode for process in some] == [0] * processes
        found.append(json.loads(said[0].splitlines()[-1]))
    assert found[0]["index"] == list(range(359))
    right = np.equal(found[0]["label"], found[0]["predicted"]).mean()
    assert found[0]["top1"] == pytest.approx(right)
    assert found[1] == found[0] == found[2]


def assert_close(found: Any, expected: Any) -> None:
    """Equal, with numbers to rounding; the speed may differ."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in found.keys() - {"images_per_second"}:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one_found, wanted in zip(found, expected, strict=True):
            assert_close(one_found, wanted)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert found == expected


@pytest.mark.slow
@trying("resumed on 8, then 2, then 1 device", lost="nothing: the same losses within float32's rounding")
def test_a_run_goes_on_with_eight_then_two_then_one_device(tmp_path: Path, one: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "--output-dir", str(run), "--resume"]
    with Cluster(tmp_path / "8", 8, train(run, "--mesh.fsdp", "4")) as eight:
        eight.signal_after("step 4/", 0, signal.SIGTERM)
        assert eight.ends() == [0]
    assert max(record["step"] for record in records(run)) < 15
    with Cluster(tmp_path / "2", 1, [*words, "--mesh.fsdp", "2"], processes=2) as two:
        # After the first step, so that there are more: the processes agree on one some steps ahead. The process is the
        # one that does not write.
        two.signal_after("images/s", 1, signal.SIGTERM)
        assert two.ends() == [0, 0]
        assert "stopped by SIGTERM at step" in two.errors(0)
    assert max(record["step"] for record in records(run)) < 15
    with Cluster(tmp_path / "1", 1, [*words, "--mesh.fsdp", "1"]) as last:
        assert last.ends() == [0], last.errors(0)
    assert_same(run, one)


@pytest.mark.slow
@trying("damaged newest checkpoint of two processes", lost="nothing: the same losses within float32's rounding")
def test_two_processes_go_back_from_a_damaged_checkpoint_together(tmp_path: Path, one: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(one, run)
    for file in (run / "checkpoints" / "15" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * 8)
    words = ["train", "--output-dir", str(run), "--resume"]
    with Cluster(tmp_path / "logs", 2, words, processes=2) as two:
        assert two.ends() == [0, 0], two.errors(0) + two.errors(1)
        assert "checkpoint 15 cannot be read" in two.errors(0)
        assert "from step 10, into" in two.errors(0)
    assert_same(run, one)


def long_run(folder: Path, *more: str) -> list[str]:
    return train(folder, "--train.epochs", "100000", *more)


@pytest.mark.slow
@trying("Ctrl-C on one process of two", lost="nothing: both save the same step and exit 0")
def test_ctrl_c_on_one_process_stops_both_at_one_step(tmp_path: Path) -> None:
    with Cluster(tmp_path / "logs", 1, long_run(tmp_path / "run"), processes=2) as two:
        two.signal_after("step 7/", 1, signal.SIGINT)
        assert two.ends() == [0, 0]
        last = records(tmp_path / "run")[-1]["step"]
        assert f"at step {last} of" in two.errors(0)
    assert (tmp_path / "run" / "checkpoints" / str(last)).is_dir()


def spoilt(folder: Path) -> list[str]:
    """Options that train on pictures of which one is none."""
    words = [sys.executable, "-m", "crosscale", "data", "digits", "--write", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    sorted((folder / "train" / "3").iterdir())[4].write_text("no picture")
    return ["--data.dir", str(folder)]


@pytest.mark.slow
@trying("exception on one process of two", lost="nothing: both end with its message")
def test_an_exception_on_one_process_ends_both_with_its_message(tmp_path: Path) -> None:
    words = long_run(tmp_path / "run", *spoilt(tmp_path / "images"))
    with Cluster(tmp_path / "logs", 1, words, processes=2) as two:
        assert two.ends() == [1, 1]
        last = [two.errors(i).splitlines()[-1] for i in (0, 1)]
        failed = 0 if last[0].startswith("crosscale train: error: process 0 (") else 1
        for line in last:
            assert f"process {failed} (" in line
            assert "not an image in a format that Pillow reads" in line


@pytest.mark.slow
def test_a_process_with_another_request_ends_both(tmp_path: Path) -> None:
    words = [long_run(tmp_path / "run", "--train.seed", str(seed)) for seed in (0, 1)]
    with Cluster(tmp_path / "logs", 1, *words, processes=2) as two:
        assert two.ends() == [2, 2]
        for i in (0, 1):
            line = two.errors(i).splitlines()[-1]
            assert "process 1 (" in line
            assert "was given train.seed=1, but process 0 0" in line


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@trying("kill -9 of one process of two", lost="nothing: the other ends within a minute and names it")
def test_a_killed_process_ends_the_other_within_a_minute(tmp_path: Path, victim: int) -> None:
    with Cluster(tmp_path / "logs", 1, long_run(tmp_path / "run"), processes=2) as two:
        two.signal_after("step 7/", victim, signal.SIGKILL)
        began = time.monotonic()
        status = two.ends(seconds=60)
        assert time.monotonic() - began < 60
        assert (status[victim], status[1 - victim]) == (-signal.SIGKILL, 1)
        line = two.errors(1 - victim).splitlines()[-1]
        assert line.startswith(f"crosscale: process {1 - victim}: error: process {victim}")
        assert "has gone without a word" in line
