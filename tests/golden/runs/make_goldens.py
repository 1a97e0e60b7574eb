"""Whole run folders as schema version 1 left them: crosscale 0.1.0, before `best/config.json` had a "version".

    python tests/golden/runs/make_goldens.py     # at commit 789bbff or before; four minutes

They show that later code reads what earlier code wrote, so they are made once and not again. Each is a narrow model on
the digits, of three epochs, stopped by SIGTERM in the middle of the second: what is left to train is real. Left out are
the page, TensorBoard's file and the lock; the places and the machine's name in the texts are cut away; the checkpoints,
the best one and the last, are packed, which makes them five times smaller. `expected.json` has what the code of that
time said of the folder: predictions of the first held-out pictures, and the end of the same run when nothing stops it.
"""

import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from crosscale.cli.main import main
from crosscale.data import open_source
from crosscale.engine.log import RunLog
from crosscale.predictor import Predictor
from crosscale.runs.validate import evaluate_run

HERE = Path(__file__).parent
STOP = 30  # a step of the second epoch; an epoch has 22
PICTURES = 3

MODELS: dict[str, dict[str, str | None]] = {  # None takes a field of the smoke recipe away
    "crossvit": {"embed_dim": "[8, 16]", "mlp_ratio": "[1, 1, 1]"},
    "crossformer": {
        "img_size": "16",
        "patch_size": "[2, 4]",
        "embed_dim": "16",
        "depth": None,
        "depths": "[1, 1]",
        "num_heads": "[1, 2]",
        "group_size": "[4, 4]",
        "interval": "[2, 1]",
        "merge_size": "[[2, 4]]",
        "mlp_ratio": "1.0",
    },
}
COMMON = {"train.keep_checkpoints": "1", "augment.mixup": "0", "augment.cutmix": "0"}
# Adam with an average of the parameters for the one; for the other fewer arrays, of which it has many.
TRAINING = {
    "crossvit": {},
    "crossformer": {"optimizer.name": "sgd", "optimizer.lr": "0.1", "train.ema_decay": "null"},
}


def recipe(name: str) -> str:
    """A YAML file of the smoke recipe with the narrow model."""
    from crosscale.recipe import find
    from crosscale.typed import dump_yaml, parse_scalar, read_yaml

    plain = read_yaml(find("smoke"))
    plain["model"]["name"] = name
    for field, text in MODELS[name].items():
        if text is None:
            del plain["model"]["options"][field]
        else:
            plain["model"]["options"][field] = parse_scalar(Any, text)
    return dump_yaml(plain)


def train(name: str, folder: str, *, stop: int | None) -> None:
    """Runs `crosscale train` in the working folder, with SIGTERM after the step `stop`."""
    tick = RunLog.tick

    def stopping(log: RunLog, step: int) -> None:
        tick(log, step)
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    words = [word for key, value in (COMMON | TRAINING[name]).items() for word in (f"--{key}", value)]
    with patch.object(RunLog, "tick", stopping):
        assert main(["train", "--config", f"{name}.yaml", "--output-dir", folder, *words]) == 0


def make(name: str) -> None:
    Path(f"{name}.yaml").write_text(recipe(name))
    train(name, name, stop=STOP)
    train(name, "whole", stop=None)
    source = open_source("digits", "val", val_fraction=0.2, seed=0)
    pictures = [source[i].image for i in range(PICTURES)]
    predictions = Predictor.from_run(name).predict(pictures, top_k=10, batch_size=PICTURES)
    validation, end = evaluate_run(run=name), evaluate_run(run="whole")
    expected = {
        "stopped_at": STOP,
        "validation": {key: validation[key] for key in ("top1", "top5", "loss", "examples")},
        "whole": {key: end[key] for key in ("top1", "top5", "loss", "examples")},
        "predictions": [{"classes": p.classes, "probabilities": p.probabilities} for p in predictions],
    }
    keep(Path(name), HERE / name)
    (HERE / name / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    shutil.rmtree("whole")


def keep(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("report.html", "tensorboard", "checkpoints", ".lock"))
    with tarfile.open(target / "checkpoints.tar.xz", "w:xz", preset=9) as packed:
        packed.add(folder / "checkpoints", "checkpoints", filter=anonymous)
    log, environment = target / "log.txt", target / "environment.json"
    log.write_text(log.read_text().replace(f"{folder.resolve().parent}/", ""))
    facts = json.loads(environment.read_text())
    environment.write_text(json.dumps({**facts, "platform": sys.platform}, indent=2) + "\n")


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for name in MODELS:
            make(name)
