"""What helps rare classes: 100:1 sets of real digits, drawn with three seeds, learnt in several ways each.

    python -m benchmarks.rare_classes

Of the digits to train on, the commonest class has 100 pictures and the rarest 1, on a geometric scale; which digit is
how rare, and which pictures, changes with the seed; the initial weights do not. The held-out fifth is measured whole.
It prints a table for docs/labels.md, and keeps the numbers in benchmarks/results. Some minutes on two
processor cores.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.seeds import table
from crosscale.data import open_source
from crosscale.recipe import load
from crosscale.runs.train import run_training

COMMONEST, RATIO, CLASSES, SEEDS = 100, 100, 10, (0, 1, 2)
WAYS = {
    "as it is": {},
    "`class_weights: effective`": {"task.class_weights": "effective"},
    "`sampling: balanced`": {"task.sampling": "balanced"},
    "`focal_gamma: 2`": {"task.focal_gamma": "2"},
}
SETTINGS = {
    "train.epochs": "60",
    "train.batch_size": "32",
    "train.eval_every": "60",  # the last weights, so that no choice by the held-out pictures flatters them
    "optimizer.lr": "3e-3",
    "augment.scale": "[0.7, 1.0]",
    "augment.mixup": "0",
    "augment.cutmix": "0",
}
SHOWN = ("balanced_accuracy", "macro_f1", "top1")
RESULT = Path(__file__).parent / "results" / "2026-11-26-rare-classes.json"


def long_tailed(file: Path, seed: int) -> list[int]:
    """Writes the set; the training pictures of each digit."""
    train, val = (open_source("digits", split) for split in ("train", "val"))
    rng = np.random.default_rng(seed)
    counts = np.round(COMMONEST * RATIO ** (-np.arange(CLASSES) / (CLASSES - 1))).astype(int)[rng.permutation(CLASSES)]
    kept = np.concatenate(
        [rng.permutation(np.flatnonzero(train.labels == label))[:count] for label, count in enumerate(counts)]
    )
    np.savez(file, train_images=train.images[kept], train_labels=train.labels[kept],
             val_images=val.images, val_labels=val.labels, classes=np.array(train.classes))  # fmt: skip
    return counts.tolist()


def measured() -> list[dict]:
    """A row for each run."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            file = Path(folder) / f"{seed}.npz"
            counts = long_tailed(file, seed)
            for number, (way, changes) in enumerate(WAYS.items()):
                recipe = load("smoke", {**SETTINGS, **changes, "data.dir": str(file)})
                found = run_training(recipe, Path(folder) / f"{seed}-{number}")
                rows.append({"way": way, "seed": seed, "counts": counts, **{name: found[name] for name in SHOWN}})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def shown(rows: list[dict]) -> str:
    """Mean and range over the seeds, in percent, as Markdown."""
    groups = {way: [row for row in rows if row["way"] == way] for way in WAYS}
    return table(("", "balanced accuracy, %", "macro F1, %", "top-1, %"), groups, SHOWN)


if __name__ == "__main__":
    found = measured()
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(shown(found))
