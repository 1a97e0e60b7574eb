"""What cross-scale embeddings are worth: the composed scenes learnt with them and with one scale, three seeds each.

    python -m benchmarks.scales

The recipe `scenes` for half of its epochs, against the same network whose embeddings have one kernel each, the smallest
of the recipe's. It prints a table for docs/segmentation.md, and keeps the numbers in benchmarks/results. Some twenty
minutes on two processor cores.
"""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.seeds import table
from crosscale.benchmark.machine import describe_machine
from crosscale.data.scenes import write_scenes
from crosscale.recipe import load
from crosscale.runs.train import run_training

SEEDS = (0, 1, 2)
EPOCHS = 3
WAYS = {
    "cross-scale: 4 and 8, then 2 and 4": {},
    "one scale: 4, then 2": {"model.options.patch_size": "[4]", "model.options.merge_size": "[[2], [2], [2]]"},
}
SHOWN = ("miou", "macc", "aacc")
RESULTS = Path(__file__).parent / "results"


def measured() -> list[dict]:
    """A row for each run."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        write_scenes(scenes)
        for seed in SEEDS:
            for number, (way, changes) in enumerate(WAYS.items()):
                settings = {
                    "data.dir": str(scenes),
                    "train.epochs": str(EPOCHS),
                    "train.eval_every": str(EPOCHS),
                    "train.seed": str(seed),
                }
                found = run_training(load("scenes", {**settings, **changes}), Path(folder) / f"{seed}-{number}")
                rows.append({"way": way, "seed": seed, **{name: found[name] for name in SHOWN}})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def shown(rows: list[dict]) -> str:
    """Mean and range over the seeds, in percent, as Markdown."""
    groups = {way: [row for row in rows if row["way"] == way] for way in WAYS}
    return table(("embeddings", "mIoU, %", "mean accuracy, %", "pixel accuracy, %"), groups, SHOWN)


if __name__ == "__main__":
    found = {"machine": describe_machine(), "epochs": EPOCHS, "rows": measured()}
    file = RESULTS / f"{time.strftime('%Y-%m-%d')}-scales.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(shown(found["rows"]))
