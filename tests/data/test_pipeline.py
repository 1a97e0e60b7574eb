import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from crosscale.contracts import InputSpec
from crosscale.data import Augment, eval_batches, open_source, steps_per_epoch, train_batches
from crosscale.data.examples import ImageExamples
from crosscale.data.sources import ArraySource
from crosscale.errors import RequestError, WorkError

SPEC = InputSpec(size=(16, 16), channels=1, mean=(0.5,), std=(0.5,), crop_pct=1.0)


def numbered(count):
    """A source whose pictures all differ."""
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
    return ArraySource("abc", [f"n/{i}" for i in range(count)], images, np.arange(count) % 3)


def take(iterator, count=None):
    with iterator:
        batches = []
        for batch in iterator:
            arrays = {name: np.array(part) for name, part in batch.arrays.items()}
            batches.append(type(batch)(arrays, np.array(batch.weight), np.array(batch.index)))
            if len(batches) == count:
                break
    return batches


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert flat(one).keys() == flat(other).keys()
        for name, rows in flat(one).items():
            np.testing.assert_array_equal(rows, flat(other)[name])


def flat(batch):
    """All of a batch's arrays by name."""
    return {**batch.arrays, "weight": batch.weight, "index": batch.index}


def train(source, **options):
    defaults = {"batch_size": 8, "seed": 3, "epochs": 3, "threads": 2}
    return train_batches(source, ImageExamples(SPEC, Augment()), **(defaults | options))


def test_batches_hold_what_they_say():
    source = numbered(20)
    (first, *_) = batches = take(train(source, epochs=1))
    assert len(batches) == steps_per_epoch(source, 8) == 2
    assert (first.image.shape, first.image.dtype) == ((8, 16, 16, 1), np.uint8)
    assert (first.arrays["label"].dtype, first.weight.dtype, first.index.dtype) == (np.int32, np.float32, np.int64)
    assert (first.weight == 1).all()
    np.testing.assert_array_equal(first.arrays["label"], first.index % 3)


def test_epochs_are_shuffled_anew_and_drop_another_remainder():
    batches = take(train(numbered(20)))
    epochs = [np.concatenate([batch.index for batch in batches[i : i + 2]]) for i in (0, 2, 4)]
    for epoch in epochs:
        assert len(set(epoch)) == 16
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({frozenset(epoch) for epoch in epochs}) > 1


def test_same_pictures_look_different_in_another_epoch():
    source = numbered(8)
    first, second = take(train(source, epochs=2))
    for i in range(8):
        one = first.image[first.index == i]
        assert not np.array_equal(one, second.image[second.index == i])


def test_workers_and_threads_change_nothing():
    source = numbered(20)
    expected = take(train(source))
    assert len(expected) == 6
    for options in ({"threads": 0}, {"threads": 5}, {"workers": 1}, {"workers": 2, "threads": 2}):
        assert_same(take(train(source, **options)), expected)


@pytest.mark.parametrize("start", [1, 2, 3, 5, 6])
def test_resume_continues_exactly(start):
    source = numbered(20)
    assert_same(take(train(source, start_step=start)), take(train(source))[start:])


@pytest.mark.slow
def test_resume_with_another_number_of_workers():
    source = numbered(20)
    assert_same(take(train(source, start_step=3, workers=2)), take(train(source))[3:])


def test_endless_training_continues_what_an_epoch_began():
    source = numbered(20)
    assert_same(take(train(source, epochs=None), 6), take(train(source)))
    far = take(train(source, epochs=None, start_step=10**9), 1)
    assert len(set(far[0].index)) == 8


def test_hosts_together_are_one_host():
    source = numbered(20)
    whole = take(train(source))
    parts = [take(train(source, host_index=i, host_count=2)) for i in range(2)]
    for step, batch in enumerate(whole):
        assert not set(parts[0][step].index) & set(parts[1][step].index)
        for i in range(2):
            for name, rows in flat(batch).items():
                np.testing.assert_array_equal(flat(parts[i][step])[name], rows[4 * i : 4 * i + 4])


def test_seed_changes_order_and_pixels():
    source = numbered(8)
    one, other = (take(train(source, seed=seed, epochs=1))[0] for seed in (1, 2))
    assert not np.array_equal(one.index, other.index)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("count", [16, 17, 23, 3])
def test_evaluation_counts_every_example_once(hosts, count):
    source = numbered(count)
    runs = [
        take(eval_batches(source, ImageExamples(SPEC), batch_size=8, threads=1, host_index=i, host_count=hosts))
        for i in range(hosts)
    ]
    assert {len(run) for run in runs} == {-(-count // 8)}
    seen = []
    for run in runs:
        for batch in run:
            assert batch.image.shape == (8 // hosts, 16, 16, 1)
            real = batch.weight == 1
            seen += batch.index[real].tolist()
            np.testing.assert_array_equal(batch.arrays["label"][real], batch.index[real] % 3)
            assert (batch.index[~real] == -1).all()
            assert (batch.weight[~real] == 0).all()
    assert sorted(seen) == list(range(count))


@pytest.mark.slow
def test_evaluation_with_workers():
    source = numbered(23)
    options = {"batch_size": 8, "threads": 1}
    assert_same(
        take(eval_batches(source, ImageExamples(SPEC), workers=2, **options)),
        take(eval_batches(source, ImageExamples(SPEC), **options)),
    )


@pytest.fixture
def damaged(make_folder, grey, encode, photo):
    files = {f"{split}/a/{i}.png": grey(10 * i + 5) for split in ("train", "val") for i in range(7)}
    for split in ("train", "val"):
        files[f"{split}/a/3.png"] = encode(photo)[:-2000]
    return make_folder(files)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_is_an_error_that_names_the_file(damaged, workers):
    source = open_source(damaged, "train")
    iterator = train_batches(source, ImageExamples(SPEC, Augment()), batch_size=7, seed=0, workers=workers)
    with (
        iterator,
        pytest.raises(WorkError, match=r"^train/a/3\.png: .*truncated.*on_bad_image: skip") as caught,
    ):
        next(iterator)
    assert "\n" not in str(caught.value)
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image_is_skipped_and_told(damaged, workers):
    source = open_source(damaged, "train")
    with train_batches(
        source, ImageExamples(SPEC, Augment()), batch_size=7, seed=0, workers=workers, on_bad_image="skip"
    ) as iterator:
        batch = next(iterator)
        assert len(iterator.errors) == 1
        assert iterator.errors[0].startswith("train/a/3.png: ")
        bad = batch.weight == 0
        assert batch.index[bad].tolist() == [3]
        assert (batch.image[bad] == 0).all()
        assert (batch.image[~bad] > 0).any(axis=(1, 2, 3)).all()


def test_bad_image_in_evaluation(damaged):
    source = open_source(damaged, "val")
    with (
        eval_batches(source, ImageExamples(SPEC), batch_size=4) as iterator,
        pytest.raises(WorkError, match=r"val/a/3\.png"),
    ):
        next(iterator)
    batches = take(eval_batches(source, ImageExamples(SPEC), batch_size=4, on_bad_image="skip"))
    assert sum(batch.weight.sum() for batch in batches) == 6


def test_file_that_disappears(damaged):
    source = open_source(damaged, "val")
    (damaged / "val/a/5.png").unlink()
    with eval_batches(source, ImageExamples(SPEC), batch_size=4, on_bad_image="skip") as iterator:
        errors = [error for _ in iterator for error in iterator.errors]
    assert any("val/a/5.png" in error and "no such file" in error for error in errors)


def test_requests_that_cannot_work():
    source = numbered(8)
    with pytest.raises(RequestError, match="only 8 images"):
        train(source, batch_size=9)
    with pytest.raises(RequestError, match="must be positive"):
        steps_per_epoch(source, 0)
    with pytest.raises(RequestError, match="multiple"):
        train(source, host_count=3)
    with pytest.raises(RequestError, match="host_index"):
        train(source, host_index=2, host_count=2)
    with pytest.raises(RequestError, match="seed"):
        train(source, seed=-1)
    with pytest.raises(RequestError, match="error or skip"):
        train(source, on_bad_image="ignore")
    with pytest.raises(RequestError, match="workers"):
        train(source, workers=-1)


def test_closed_iterator_ends():
    iterator = train(numbered(20))
    next(iterator)
    iterator.close()
    iterator.close()
    with pytest.raises(StopIteration):
        next(iterator)


ORPHAN = """
import multiprocessing, sys, time
from crosscale.contracts import InputSpec
from crosscale.data import Augment, ImageExamples, open_source, train_batches

if __name__ == "__main__":
    spec = InputSpec(size=(16, 16), channels=1, mean=(.5,), std=(.5,))
    examples = ImageExamples(spec, Augment())
    batches = train_batches(open_source("digits", "train"), examples, batch_size=16, seed=0, workers=1)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shared_memory(pid):
    """The files of shared memory that a process has mapped."""
    with open(f"/proc/{pid}/maps") as lines:
        return {line.split()[-1] for line in lines if "/dev/shm/" in line and "deleted" not in line}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads process states from /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        assert all(running(pid) for pid in pids)
        shared = {name for pid in (parent.pid, *pids) for name in shared_memory(pid)}
        assert shared
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(running(pid) for pid in pids)
    while any(os.path.exists(file) for file in shared) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [file for file in shared if os.path.exists(file)]  # it would stay until somebody takes it away


def test_importing_the_package_is_cheap():
    program = (
        "import sys, crosscale.data, crosscale.data.augment\n"
        "print(*[name for name in ('grain', 'PIL', 'sklearn', 'crosscale.data.mix') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


ENDED = ORPHAN.replace(
    "time.sleep(60)",
    """[child.kill() for child in multiprocessing.active_children()]
    try:
        for _ in range(1000):
            next(batches)
    except Exception as error:
        print(type(error).__name__, error)""",
)


@pytest.mark.slow
def test_a_killed_worker_is_one_line(tmp_path):
    script = tmp_path / "ended.py"
    script.write_text(ENDED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert "WorkError a loader process was ended from outside, perhaps because memory ran out" in done.stdout
    assert "Traceback" not in done.stderr


STOPPED = ORPHAN.replace(
    "time.sleep(60)",
    """children = multiprocessing.active_children()
    [os.kill(child.pid, signal.SIGSTOP) for child in children]
    threading.Timer(3, lambda: [os.kill(child.pid, signal.SIGCONT) for child in children]).start()
    print(sum(1 for _ in zip(range(200), batches)))""",
).replace("import multiprocessing", "import os, signal, threading, crosscale.data.watched as watched, multiprocessing")


@pytest.mark.slow
def test_a_stopped_worker_is_named_and_waited_for(tmp_path):
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED.replace("\n\nif", "\nwatched.Watched.__init__.__defaults__ = (1.0,)\n\nif", 1))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "200"
    assert "no loader process has given a batch for 1 s: is one stopped" in done.stderr


LEFT_OPEN = ORPHAN.replace("time.sleep(60)", "batch = next(batches)")


@pytest.mark.slow
def test_iterator_left_open_ends_quietly(tmp_path):
    script = tmp_path / "left_open.py"
    script.write_text(LEFT_OPEN)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert not any(running(pid) for pid in done.stdout.split())
