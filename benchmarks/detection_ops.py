"""The operations of detection beside torchvision's, on the CPU: what both give, and how long each takes.

    PEER_PYTHON=/path/to/python sh benchmarks/run_all.sh detection page    # measures, and writes docs/performance.md
    python -m benchmarks.detection_ops PEER_PYTHON [--rounds 15] [--output FILE]

PEER_PYTHON is a Python with torch and torchvision (2.14.1 and 0.29.1 were used: pip install torch==2.14.1
torchvision==0.29.1 into an environment of its own, 5.5 GB). Both run in one go and take turns, call by call, on the
same inputs and on the same core; ours are compiled beforehand. Times are of the processor, so that other work on the
machine counts little. It prints the table and keeps the numbers in a file, of today in benchmarks/results where none is
named. A minute on a quiet machine.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.performance_page import DETECTION, detection_cells, table
from crosscale.benchmark.machine import describe_machine
from crosscale.layers.boxes import box_iou, generalized_box_iou
from crosscale.layers.nms import best_nms, nms
from crosscale.layers.roi_align import paste_masks, pyramid_levels, roi_align

RESULTS = Path(__file__).parent / "results"
STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH, CHANNELS = 800, 1216, 256
CASES = {
    "iou": "IoU of 100 boxes with 20,000",
    "giou": "generalised IoU of 20,000 pairs",
    "nms_1000": "suppression among 1,000 boxes",
    "nms_2000": "suppression among 2,000 boxes",
    "best_100_of_5000": "the best 100 of 5,000 boxes of 80 classes",
    "roi_align_7": "RoIAlign, 1,000 boxes, 7 x 7, 256 channels of four levels",
    "roi_align_14": "RoIAlign, 100 boxes, 14 x 14, likewise",
    "paste": "100 masks pasted into 800 x 1216",
}


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes of 16 to 600 pixels and mixed shapes within the picture."""
    side, shape = np.exp(rng.uniform(np.log(16), np.log(600), count)), np.exp(rng.normal(0, 0.4, count))
    w, h = np.minimum(side * shape, WIDTH - 1), np.minimum(side / shape, HEIGHT - 1)
    x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
    return np.stack([x, y, x + w, y + h], 1).astype(np.float32)


def crowded(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes of which many overlap, as those around objects do."""
    centres = boxes(rng, max(1, count // 20))[rng.integers(0, max(1, count // 20), count)]
    sides = np.tile(centres[:, 2:] - centres[:, :2], 2)
    return (centres + rng.normal(0, 0.1, (count, 4)) * sides).astype(np.float32).clip(0, [WIDTH, HEIGHT] * 2)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    given = {"objects": boxes(rng, 100), "anchors": boxes(rng, 20000), "a": boxes(rng, 20000), "b": boxes(rng, 20000)}
    for name, count in (("nms_1000", 1000), ("nms_2000", 2000), ("many", 5000)):
        given[f"{name}_boxes"] = crowded(rng, count).astype(np.float32)
        given[f"{name}_scores"] = rng.permutation(count).astype(np.float32) / count
    given["many_labels"] = rng.integers(0, 80, 5000)
    for level, stride in enumerate(STRIDES):
        shape = (1, HEIGHT // stride, WIDTH // stride, CHANNELS)
        given[f"map_{level}"] = rng.standard_normal(shape, np.float32)
    for size, count in ((7, 1000), (14, 100)):
        given[f"roi_{size}"] = boxes(rng, count)
        given[f"levels_{size}"] = np.asarray(pyramid_levels(jnp.asarray(given[f"roi_{size}"]), len(STRIDES)))
    given["masks"], given["mask_boxes"] = rng.random((100, 28, 28), np.float32), boxes(rng, 100)
    return given


def compiled(given: dict[str, np.ndarray]) -> dict[str, Callable[[], jax.Array]]:
    """Ours by name; each returns when its result is there."""
    on = {name: jnp.asarray(value) for name, value in given.items()}
    maps = [on[f"map_{level}"] for level in range(len(STRIDES))]

    def align(maps: list, boxes: jax.Array, levels: jax.Array, size: int) -> jax.Array:
        return roi_align(maps, boxes, jnp.zeros(len(boxes), jnp.int32), strides=STRIDES, size=size, levels=levels)

    functions = {
        "iou": (box_iou, on["objects"], on["anchors"]),
        "giou": (lambda a, b: 1 - generalized_box_iou(a, b), on["a"], on["b"]),
        "nms_1000": (lambda b, s: nms(b, s, 0.7), on["nms_1000_boxes"], on["nms_1000_scores"]),
        "nms_2000": (lambda b, s: nms(b, s, 0.7), on["nms_2000_boxes"], on["nms_2000_scores"]),
        "best_100_of_5000": (
            lambda b, s, labels: best_nms(b, s, 0.5, 100, labels=labels)[0],
            on["many_boxes"],
            on["many_scores"],
            on["many_labels"],
        ),
        "roi_align_7": (lambda *a: align(*a, 7), maps, on["roi_7"], on["levels_7"]),
        "roi_align_14": (lambda *a: align(*a, 14), maps, on["roi_14"], on["levels_14"]),
        "paste": (lambda m, b: paste_masks(m, b, (HEIGHT, WIDTH)), on["masks"], on["mask_boxes"]),
    }

    def ready(function: Callable[..., jax.Array], arguments: tuple) -> Callable[[], jax.Array]:
        program = jax.jit(function).lower(*arguments).compile()
        return lambda: program(*arguments).block_until_ready()

    return {name: ready(functions[name][0], functions[name][1:]) for name in CASES}


@contextmanager
def peer(python: str, file: Path):
    """torchvision's operations in their own process, as a function of a line; and what it said of itself."""
    program = Path(__file__).with_name("detection_ops_peer.py")
    with subprocess.Popen([python, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline().split()
        if said[:1] != ["ready"]:
            raise SystemExit(f"{python} cannot run torch and torchvision")

        def tell(line: str) -> None:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()

        def ask(line: str) -> float:
            tell(line)
            return json.loads(process.stdout.readline())["seconds"]

        tell(str(file))
        yield ask, {"torch": said[1], "torchvision": said[2], "threads": int(said[3])}
        process.stdin.close()


def deviation(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference; of suppressions, how many boxes one keeps and the other does not."""
    if name.startswith("nms"):
        return float(len(set(np.flatnonzero(ours)) ^ set(theirs.tolist())))
    if name.startswith("best"):
        return float((ours != theirs).sum())
    if name.startswith("roi"):
        theirs = theirs.transpose(0, 2, 3, 1)
    return float(np.abs(ours - theirs).max())


def measured(python: str, rounds: int) -> tuple[list[dict], dict]:
    """A row for each case, and what the peer is."""
    given, rows = inputs(), []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **given)
        own = compiled(given)
        with peer(python, file) as (ask, about):
            for name, what in CASES.items():
                ask(f"{name} {folder}/found.npy")
                found, theirs = np.asarray(own[name]()), np.load(f"{folder}/found.npy")
                apart = None if name == "paste" else deviation(name, found, theirs)
                times: dict[str, list[float]] = {"crosscale": [], "torchvision": []}
                for _ in range(rounds):
                    began = time.process_time()
                    own[name]()
                    times["crosscale"].append(time.process_time() - began)
                    times["torchvision"].append(ask(name))
                row = {"case": name, "what": what, "apart": apart, "rounds": rounds}
                for who, seconds in times.items():
                    row |= {f"{who}_best_ms": 1e3 * min(seconds), f"{who}_median_ms": 1e3 * median(seconds)}
                rows.append(row)
                print(row, flush=True)
    return rows, about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer_python")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{date.today()}-detection-ops.json")
    asked = parser.parse_args()
    before = os.getloadavg()[0]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before either side starts its threads
    rows, about = measured(asked.peer_python, asked.rounds)
    machine = {**describe_machine(), "load_before": before, "load_after": os.getloadavg()[0]}
    machine["versions"] |= {name: about[name] for name in ("torch", "torchvision")}
    result = {"mode": "detection", "machine": machine, "threads": about["threads"], "rows": rows}
    asked.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(DETECTION, detection_cells(rows)))


if __name__ == "__main__":
    main()
