"""What a segmentation's metric costs beside the forward, and whether the loader keeps its training step fed.

    python -m benchmarks.segmentation_costs

Metric: what it adds to the forward of `semantic_fpn_crossformer_tiny` on 150 classes, in processor time, the two taking
turns. Feeding: `crosscale train --config segment_fpn_ade20k` with that model on a folder in ADE20K's layout, read from
the run's metrics.jsonl. Both are kept in benchmarks/results, from which `benchmarks.performance_page` writes the page.
Some five minutes on two processor cores.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from crosscale.benchmark.feeding import LOG_EVERY, waiting
from crosscale.benchmark.machine import describe_machine, load_average
from crosscale.benchmark.ours import seeded_variables
from crosscale.benchmark.photos import cut, photographs
from crosscale.contracts import Batch
from crosscale.engine.forward import inferred
from crosscale.engine.sharding import data_mesh, put_batch
from crosscale.models.registry import create_model, input_spec
from crosscale.runtime import prepare_jax
from crosscale.tasks.registry import task_kind

MODEL = "semantic_fpn_crossformer_tiny"
CLASSES = 150
PICTURE = (512, 683)  # height and width of most of ADE20K's pictures
FED = (512, 704)  # as validation feeds them: sides are multiples of 32
BATCH, TURNS = 2, 8
TRAINED, STEPS = 4, 16  # pictures a step
PICTURES = TRAINED * STEPS
RESULTS = Path(__file__).parent / "results"


def regions(rng: np.random.Generator, height: int, width: int, count: int = 20) -> np.ndarray:
    """(height, width) uint8: areas around random points, each of a class 1..150."""
    points = rng.uniform(0, 1, (count, 2)) * (height, width)
    rows, columns = np.mgrid[:height, :width]
    near = np.argmin([(rows - y) ** 2 + (columns - x) ** 2 for y, x in points], 0)
    return rng.integers(1, CLASSES + 1, count).astype(np.uint8)[near]


def sure_logits(rng: np.random.Generator, masks: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """(B, h, w, CLASSES) logits as a trained model has them: well above the others for one class, blurred where areas
    meet, with noise that is smooth over some cells."""
    rows, columns = (
        (np.arange(count) + 0.5) * side / count for count, side in zip(cells, masks.shape[1:], strict=True)
    )
    labels = masks[:, rows.astype(int)[:, None], columns.astype(int)].astype(np.int64)
    known = np.where(labels < CLASSES, labels, 0)
    logits = 10 * np.eye(CLASSES, dtype=np.float32)[known] + rng.standard_normal((*known.shape, CLASSES), np.float32)
    return uniform_filter(logits, (1, 3, 3, 1)).astype(np.float32)


def metric_cost() -> dict[str, Any]:
    """Milliseconds of processor time of the forward, and what the metric adds as a share of it.

    "sure": on logits as a trained model has them. "unsure": on those of random weights, where every class may be the
    largest everywhere, which is the worst that can come.
    """
    model = create_model(MODEL, num_classes=CLASSES)
    spec, mesh, rng = input_spec(MODEL, model), data_mesh(), np.random.default_rng(0)
    task = task_kind("segmentation").from_artifact([str(label) for label in range(CLASSES)], {})
    masks = np.full((BATCH, *FED), 255, np.uint8)
    masks[:, :, : PICTURE[1]] = [regions(rng, *PICTURE) - 1 for _ in range(BATCH)]
    targets = {"mask": masks, "size": np.tile(np.array(PICTURE, np.int32), (BATCH, 1))}
    images = rng.integers(0, 256, (BATCH, *FED, 3), np.uint8)
    batch = put_batch(Batch({"image": images, **targets}, np.ones(BATCH, np.float32), np.arange(BATCH)), mesh)
    variables = seeded_variables(model)

    @jax.jit
    def forward(variables: Any, batch: Any) -> Any:
        return inferred(model, variables, batch["image"], spec, task, batch["size"])

    @jax.jit
    def measured(logits: Any, batch: Any) -> Any:
        return task.metric.update_and_collect(task.metric.init(), logits, batch)

    unsure = jax.block_until_ready(forward(variables, batch))
    sure = jax.device_put(sure_logits(rng, masks, unsure.shape[1:3]))
    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: forward(variables, batch),
        "sure": lambda: measured(sure, batch),
        "unsure": lambda: measured(unsure, batch),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(TURNS + 1):
        for way, step in ways.items():
            began = time.process_time()
            jax.block_until_ready(step())
            if turn:  # the first one compiles
                spent[way].append(time.process_time() - began)
    found = {way: 1000 * median(times) for way, times in spent.items()}
    shares = {way: found[way] / found["forward"] for way in ("sure", "unsure")}
    return {"forward_ms": found["forward"], **shares}


def feeding() -> dict[str, Any]:
    """Images per second of the training's steps and the share of the time that they waited for data."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "ade", Path(folder) / "run"
        _write_pictures(data)
        settings = {
            "data.val_images": 4,
            "data.train_images": PICTURES,
            "data.threads": 2,
            "train.batch_size": TRAINED,
            "train.steps": STEPS,
            "train.eval_steps": STEPS,
            "train.log_every": LOG_EVERY,
            "validate.batch_size": 2,
        }
        command = [sys.executable, "-m", "crosscale", "train", "--config", "segment_fpn_ade20k", "--model", MODEL]
        command += ["--data-dir", str(data), "--output-dir", str(run)]
        command += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        subprocess.run(command, check=True)
        images, seconds, waited = waiting(run / "metrics.jsonl", TRAINED)
    return {"images_per_second": images / seconds, "data_wait": waited / seconds}


def _write_pictures(data: Path) -> None:
    """A folder in ADE20K's layout, with photographs of its usual size."""
    rng, sources = np.random.default_rng(0), photographs()
    height, width = PICTURE
    for split, stem, count in (("training", "train", PICTURES), ("validation", "val", 4)):
        for folder in ("images", "annotations"):
            (data / folder / split).mkdir(parents=True)
        for number in range(1, count + 1):
            name = f"ADE_{stem}_{number:08d}"
            picture = cut(sources[int(rng.integers(len(sources)))], width, height, rng)
            picture.save(data / "images" / split / f"{name}.jpg", quality=92)
            Image.fromarray(regions(rng, height, width)).save(data / "annotations" / split / f"{name}.png")


if __name__ == "__main__":
    prepare_jax()  # as the command line does
    before = load_average()
    found = {"mode": "segmentation", "model": MODEL, "metric": metric_cost(), "feeding": feeding()}
    found["machine"] = {**describe_machine(), "load_before": before, "load_after": load_average()}
    print(json.dumps(found, indent=1))
    file = RESULTS / f"{time.strftime('%Y-%m-%d')}-segmentation-costs.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
