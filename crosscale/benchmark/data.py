"""How fast pictures are fed, stage by stage, beside raw libjpeg-turbo and beside torch's DataLoader with timm.

All contenders take turns, round after round, on the same files. The rate is per second of CPU time, over all threads
and child processes: what one core does when it has nothing else to do, also on a machine that others use. Wall-clock
rates of the loaders are given beside it.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from crosscale.benchmark.feeding import FeedRequest, measure_feeding
from crosscale.benchmark.photos import write_jpegs
from crosscale.contracts import InputSpec, Source
from crosscale.data import Augment, ImageExamples, open_source, train_batches, train_transform
from crosscale.data.crop_decode import can_decode_parts
from crosscale.data.decode import decode
from crosscale.data.fast import FastTransform, fast_train_transform
from crosscale.errors import RequestError, WorkError

STAGES = {
    "decode": "decode",
    "crop": "decode, random resized crop, flip",
    "recipe": "the training recipe, one picture at a time",
    "loader": "the training recipe, batched by the loader",
}


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
      images: JPEG files to make.
      rounds: turns that each contender takes.
      size: of the model's input.
      threads: of our loader, and processes of torch's.
      peer: a Python with torch and timm; None compares with neither.
      fast: whether our fast path is measured too.
      train_steps: of a short training that shows whether steps wait for pictures (see `feeding`); 0 for none.
    """

    images: int = 256
    rounds: int = 5
    size: int = 240
    batch_size: int = 32
    threads: int = 2
    peer: str | None = None
    fast: bool = False
    train_steps: int = 0


Turn = Callable[[], dict[str, float]]


def measure(request: Request, report: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Runs the comparison.

    Returns:
      "rows": of each contender and stage "stage", "who", "per_core" (images per CPU second, the median over the
      rounds), "low" and "high", and "wall" (images per second of the loaders); "ratios": ours over the peer's per
      stage, each round by itself, as median; "fast_deviation", the "max" and "mean" of pixels; "feeding", what
      `measure_feeding` gives, or None; "images", "mean_bytes", "cores".

    Raises:
      RequestError: a library or the peer is missing.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crosscale-bench-")))
        mean_bytes = write_jpegs(folder, request.images + 4)  # four stand in val/
        source = open_source(folder, "train")
        turns = _own_turns(source, request)
        if request.peer is not None:
            ask = stack.enter_context(_peer(request.peer))
            turns |= _peer_turns(ask, folder / "train", request)
        found = _take_turns(turns, request.rounds, report)
        deviates = deviation(source, request.size) if request.fast else None
        fed = _feeding(folder, request)
    return {
        "rows": [_row(key, rounds) for key, rounds in found.items()],
        "ratios": _ratios(found),
        "fast_deviation": deviates,
        "feeding": fed,
        "images": request.images,
        "mean_bytes": mean_bytes,
        "size": request.size,
        "rounds": request.rounds,
        "threads": request.threads,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _feeding(folder: Path, request: Request) -> dict[str, Any] | None:
    if not request.train_steps:
        return None
    batch_size = min(request.images, FeedRequest.batch_size)
    return measure_feeding(
        folder, FeedRequest(steps=request.train_steps, threads=request.threads, batch_size=batch_size)
    )


def _take_turns(
    turns: dict[tuple[str, str], Turn], rounds: int, report: Callable[[int, int], None] | None
) -> dict[tuple[str, str], list[dict[str, float]]]:
    found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in turns}
    for done in range(rounds + 1):
        for key, turn in turns.items():
            result = turn()
            if done:  # the first round warms caches up
                found[key].append(result)
        if report is not None:
            report(done + 1, rounds + 1)
    return found


def _own_turns(source: Source, request: Request) -> dict[tuple[str, str], Turn]:
    spec = InputSpec(size=(request.size, request.size))
    plain = Augment(auto_augment=None, color_jitter=0.0)
    turns: dict[tuple[str, str], Turn] = {}
    if importlib.util.find_spec("simplejpeg") is not None:
        turns["decode", "libjpeg-turbo"] = _timed(lambda: _raw_decode(source))
    turns["decode", "crosscale"] = _timed(lambda: _each(source, lambda img, rng: img))
    turns["crop", "crosscale"] = _timed(lambda: _each(source, train_transform(spec, plain)))
    turns["recipe", "crosscale"] = _timed(lambda: _each(source, train_transform(spec, Augment())))
    turns["loader", "crosscale"] = _timed(lambda: _load(source, spec, Augment(), request, "exact"))
    if request.fast:
        for stage, augment in (("crop", plain), ("recipe", Augment())):
            turns[stage, "crosscale, fast"] = _fast_turn(source, fast_train_transform(spec, augment))
            if can_decode_parts():  # what that option brings by itself
                whole = fast_train_transform(spec, augment, parts=False)
                turns[stage, "crosscale, fast, whole pictures"] = _fast_turn(source, whole)
        turns["loader", "crosscale, fast"] = _timed(lambda: _load(source, spec, Augment(), request, "fast"))
    return turns


def _raw_decode(source: Source) -> int:
    import simplejpeg  # type: ignore[import-untyped]

    for index in range(len(source)):
        image = source[index].image
        assert isinstance(image, bytes)
        simplejpeg.decode_jpeg(image)
    return len(source)


def _each(source: Source, transform: Callable[[Any, np.random.Generator], Any]) -> int:
    rng = np.random.default_rng(0)
    for index in range(len(source)):
        record = source[index]
        transform(decode(record.image, 3, record.id), rng)
    return len(source)


def _fast_turn(source: Source, transform: FastTransform) -> Turn:
    def work() -> int:
        rng = np.random.default_rng(0)
        for index in range(len(source)):
            transform(source[index], rng)
        return len(source)

    return _timed(work)


def deviation(source: Source, size: int) -> dict[str, float]:
    """How far the fast path's pixels lie from the exact path's, in levels of 0..255, for the same crops."""
    spec, plain = InputSpec(size=(size, size)), Augment(auto_augment=None, color_jitter=0.0)
    exact, fast = train_transform(spec, plain), fast_train_transform(spec, plain)
    largest, total = 0, 0.0
    for index in range(len(source)):
        record = source[index]
        one = exact(decode(record.image, 3, record.id), np.random.default_rng(index))
        other = fast(record, np.random.default_rng(index))
        difference = np.abs(one.astype(int) - other)
        largest, total = max(largest, int(difference.max())), total + float(difference.mean())
    return {"max": largest, "mean": total / len(source)}


def _load(source: Source, spec: InputSpec, augment: Augment, request: Request, how: Literal["exact", "fast"]) -> int:
    options: dict[str, Any] = {"batch_size": request.batch_size, "seed": 0, "epochs": 1}
    with train_batches(source, ImageExamples(spec, augment, decode=how), threads=request.threads, **options) as batches:
        return sum(len(batch.weight) for batch in batches)


def _timed(work: Callable[[], int]) -> Turn:
    def turn() -> dict[str, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        images = work()
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "images": images}

    return turn


def _peer_turns(
    ask: Callable[[dict[str, Any]], dict[str, float]], folder: Path, request: Request
) -> dict[tuple[str, str], Turn]:
    common = {
        "folder": str(folder),
        "size": request.size,
        "count": request.images,
        "batch_size": request.batch_size,
        "workers": request.threads,
    }
    stages = {
        ("decode", "torch + timm"): "decode",
        ("crop", "torch + timm"): "crop",
        ("recipe", "torch + timm"): "recipe",
        ("recipe", "torch + timm, uint8"): "recipe_uint8",
        ("loader", "torch + timm"): "loader",
        ("loader", "torch + timm, uint8"): "loader_uint8",
    }

    def turn(stage: str) -> Turn:
        return lambda: ask({**common, "stage": stage})

    return {key: turn(stage) for key, stage in stages.items()}


@contextmanager
def _peer(python: str) -> Iterator[Callable[[dict[str, Any]], dict[str, float]]]:
    """A running peer, as a function of its request."""
    program = Path(__file__).with_name("torch_peer.py")
    command = [python, str(program)]
    if shutil.which(python) is None:
        raise RequestError(f"--peer-python {python}: no such program")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if not process.stdout.readline():
            lines = process.stderr.read().strip().splitlines() or ["it said nothing"]
            raise RequestError(f"--peer-python {python}: cannot run torch and timm ({lines[-1]})")

        def ask(request: dict[str, Any]) -> dict[str, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                answer: dict[str, float] = json.loads(process.stdout.readline())
            except (OSError, ValueError):
                raise WorkError(f"the peer {python} ended in the middle of stage '{request['stage']}'") from None
            return answer

        yield ask
        process.stdin.close()


def _row(key: tuple[str, str], rounds: list[dict[str, float]]) -> dict[str, Any]:
    rates = [result["images"] / result["cpu"] for result in rounds]
    wall = median(result["images"] / result["wall"] for result in rounds)
    row = {"stage": key[0], "who": key[1], "per_core": median(rates), "low": min(rates), "high": max(rates)}
    return {**row, "wall": wall if key[0] == "loader" else None}


def _ratios(found: dict[tuple[str, str], list[dict[str, float]]]) -> dict[str, float]:
    """Our rate over each other's per stage, round by round, so that a change of the machine's pace cancels out."""
    ratios = {}
    for (stage, who), rounds in found.items():
        for ours in ("crosscale", "crosscale, fast"):
            own = found.get((stage, ours))
            if own is None or who.startswith("crosscale"):
                continue
            pairs = zip(own, rounds, strict=True)
            values = [(a["images"] / a["cpu"]) / (b["images"] / b["cpu"]) for a, b in pairs]
            ratios[f"{stage}: {ours} / {who}"] = median(values)
    return ratios


def default_peer() -> str | None:
    """This interpreter, if it has torch and timm."""
    found = all(importlib.util.find_spec(name) is not None for name in ("torch", "timm"))
    return sys.executable if found else None
