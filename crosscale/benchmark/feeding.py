"""Whether a training step waits for its pictures: a short, real run of `crosscale train`, read from what it logged.

The run is a process of its own, in a folder that is gone afterwards: the real loader, the real step, the real loop.
Its share of waiting comes with what its loader delivers with nobody else at work, for a step can only be kept
waiting by a loader that is slower than it.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crosscale.data import Augment, ImageExamples, open_source, train_batches
from crosscale.errors import WorkError
from crosscale.models.registry import create_model, input_spec

LOG_EVERY = 2  # steps


@dataclass(frozen=True)
class FeedRequest:
    """What is trained.

    Attributes:
      steps: that are taken, rounded up to whole epochs.
      threads: of the loader.
      options: fields of the model.
    """

    model: str = "crossvit_9_240"
    batch_size: int = 8
    steps: int = 24
    threads: int = 2
    decode: Literal["exact", "fast"] = "exact"
    options: Mapping[str, Any] = field(default_factory=dict)


def measure_feeding(folder: Path, request: FeedRequest) -> dict[str, Any]:
    """Trains on an image folder and reads the run's `metrics.jsonl`.

    Returns:
      "model", "batch_size", "threads", "decode"; "steps" that were measured (the first compiles and is left out);
      "loader" and "step", images per second of the loader alone and of the steps without their waiting; "keeps_up",
      whether the loader is the faster; "data_wait", the share of the time that the steps waited, 0..1.

    Raises:
      WorkError: the training failed.
    """
    loader = _loader_rate(folder, request)
    with tempfile.TemporaryDirectory(prefix="crosscale-feeding-") as scratch:
        _train(folder, Path(scratch) / "run", request)
        images, seconds, waited = waiting(Path(scratch) / "run" / "metrics.jsonl", request.batch_size)
    step = images / max(seconds - waited, 1e-9)
    return {
        "model": request.model,
        "batch_size": request.batch_size,
        "threads": request.threads,
        "decode": request.decode,
        "steps": images // request.batch_size,
        "loader": loader,
        "step": step,
        "keeps_up": loader > step,
        "data_wait": waited / seconds,
    }


def _loader_rate(folder: Path, request: FeedRequest) -> float:
    """Images per second of wall clock over one epoch, after a batch that starts the threads."""
    spec = input_spec(request.model, create_model(request.model, **request.options))
    source = open_source(folder, "train")
    options: dict[str, Any] = {"batch_size": request.batch_size, "seed": 0}
    examples = ImageExamples(spec, Augment(), decode=request.decode)
    with train_batches(source, examples, threads=request.threads, **options) as batches:
        next(batches)
        began = time.perf_counter()
        count = max(request.steps // 2, 4)
        for _ in range(count):
            next(batches)
        return count * request.batch_size / (time.perf_counter() - began)


def _train(folder: Path, run: Path, request: FeedRequest) -> None:
    per_epoch = len(open_source(folder, "train")) // request.batch_size
    epochs = -(-request.steps // per_epoch)
    settings: dict[str, Any] = {
        "data.threads": request.threads,
        "data.decode": request.decode,
        "optimizer.lr": 1e-4,
        "schedule.warmup_epochs": 0,
        "train.batch_size": request.batch_size,
        "train.epochs": epochs,
        "train.eval_every": epochs,
        "train.log_every": LOG_EVERY,
        "validate.batch_size": request.batch_size,
    }
    settings |= {f"model.options.{name}": json.dumps(value) for name, value in request.options.items()}
    command = [sys.executable, "-m", "crosscale", "train", "--data-dir", str(folder), "--output-dir", str(run)]
    command += ["--model", request.model]
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise WorkError(f"the training of {request.model} that should be fed failed: {lines[-1]}")


def waiting(file: Path, batch_size: int) -> tuple[int, float, float]:
    """What a run's metrics say that was logged every `LOG_EVERY` steps: how many images its steps took after the first,
    which compiles, in how many seconds, and how many of these they waited for images."""
    records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    windows = [record for record in records if record["kind"] == "train" and record["images_per_second"] > 0]
    # The window that holds the first step counts the steps after it.
    images = [batch_size * (LOG_EVERY - (index == 0)) for index in range(len(windows))]
    seconds = [count / window["images_per_second"] for count, window in zip(images, windows, strict=True)]
    waited = sum(window["data_wait"] * passed for window, passed in zip(windows, seconds, strict=True))
    return sum(images), sum(seconds), waited
