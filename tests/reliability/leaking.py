"""One process that trains again and again and is disturbed each time: `leaking.py HOW FOLDER`.

Prints after every run how many file descriptors and child processes it has, as JSON lines.
"""

import gc
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from crosscale.errors import WorkError
from crosscale.recipe import load
from crosscale.runs.train import run_training
from tests.reliability.runs import SMALL, children, open_files, records

TIMES = 4


class Broken(Exception):  # noqa: N818 - a defect of the caller's, of no kind that the library knows
    """What a caller's own code raises in the loop."""


def disturb(how: str, folder: Path, workers: list[int]) -> None:
    """Waits for a step of the run, notes the loader processes, and sends the signals."""
    while not records(folder):
        time.sleep(0.005)
    workers += children(os.getpid())
    if how == "Ctrl-C":
        os.kill(os.getpid(), signal.SIGINT)


def once(how: str, folder: Path) -> dict[str, int]:
    def after_epoch(folder: Path) -> None:
        if how == "exception":
            raise Broken

    workers: list[int] = []
    watcher = threading.Thread(target=disturb, args=(how, folder, workers))
    watcher.start()
    broken_picture = {"data.dir": sys.argv[3]} if how == "bad picture" else {}
    recipe = load(
        "smoke", {**SMALL, "train.log_every": "1", "train.epochs": "50", "data.workers": "2", **broken_picture}
    )
    try:
        result = run_training(recipe, folder, on_epoch=after_epoch)
        raised = f"stopped by {result['stopped']}"
    except (Broken, WorkError) as error:
        raised = type(error).__name__
    watcher.join()
    gc.collect()  # what an exception held goes when the collector comes by
    time.sleep(0.5)  # the resource tracker's and the loaders' pipes close when those have gone
    left = [child for child in children(os.getpid()) if child in workers]
    return {"raised": raised, "workers": len(workers), "files": open_files(os.getpid()), "children": len(left)}


if __name__ == "__main__":
    for i in range(TIMES):
        print(json.dumps(once(sys.argv[1], Path(sys.argv[2]) / str(i))), flush=True)
