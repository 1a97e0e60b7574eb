"""Runs one training run on a small disc of its own that fills up: `full_disc.py WHERE FOLDER`, as root of a namespace.

Prints what happened as JSON. WHERE says how much room is left when the first checkpoint is whole, and so what the
disc refuses first. The run folder, and the result of going on when there is space again, are copied into FOLDER.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.reliability.runs import TRAIN, checkpoints, start, train, words

# Bytes left, and keys of the recipe, such that this is the first thing that does not fit.
CASES = {
    "log": (0, {"train.log_every": "1", "train.checkpoint_every": "7", "train.eval_every": "1000"}),
    "best": (8192, {"train.checkpoint_every": "11"}),
    "checkpoint": (65536, {"train.checkpoint_every": "7"}),
}


def recipe(where: str) -> list[str]:
    """The words of the run."""
    return words({"train.epochs": "4", "train.log_every": "2", **CASES[where][1]})


def fill(disc: Path, leave: int) -> None:
    with (disc / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096) == 4096:
                pass
        except OSError:
            pass
        file.truncate(max(file.tell() - leave, 0))


def main(where: str, folder: Path) -> None:
    disc = folder / "disc"
    disc.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disc)], check=True)
    run = disc / "run"
    os.environ["CROSSCALE_TRACEBACK"] = "1"  # says where the disc was full
    process = start(*recipe(where), "--output-dir", str(run))
    while not checkpoints(run) and process.poll() is None:
        time.sleep(0.001)
    fill(disc, CASES[where][0])
    _, errors = process.communicate(timeout=200)
    left = [path.name for path in run.rglob("*") if path.name.startswith((".best.new", ".environment", ".report"))]
    result = {"status": process.returncode, "errors": errors, "kept": checkpoints(run), "left": left}
    (disc / "ballast").unlink()
    again = train("--output-dir", str(run), "--resume")
    result |= {"again": again.returncode, "again_errors": again.stderr}
    shutil.copytree(run, folder / "run")
    print(json.dumps(result))


if __name__ == "__main__":
    assert TRAIN
    main(sys.argv[1], Path(sys.argv[2]))
