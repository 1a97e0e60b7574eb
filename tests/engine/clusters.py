"""Runs of `crosscale` as one or several processes of a few devices each, started as a cluster would start them."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# Small steps, few of them and a low learning rate: rounding must not have the time to grow.
RECIPE = {
    "model.options.img_size": "[16]",
    "model.options.patch_size": "[4]",
    "model.options.embed_dim": "[16]",
    "model.options.depth": "[[1, 0]]",
    "model.options.num_heads": "[2]",
    "model.options.mlp_ratio": "[2]",
    "model.options.fusion": "none",
    "optimizer.lr": "0.001",
    "train.batch_size": "256",
    "train.epochs": "3",
    "train.log_every": "1",
}


class Cluster:
    """Processes of one command; use it as a context manager, which leaves none behind."""

    def __init__(
        self, logs: Path, devices: int, *own: Sequence[str], processes: int = 1, envs: Sequence[dict[str, str]] = ()
    ) -> None:
        """
        Args:
          logs: folder for "<process>.out" and "<process>.err".
          devices: of each process.
          own: the command's words; either one list for all processes or one for each.
          envs: of each process, by which it finds the others; without, the three options say it.
        """
        logs.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.logs = logs
        self.processes = []
        for i in range(processes):
            words = [sys.executable, "-m", "crosscale", *own[i if len(own) > 1 else 0]]
            if processes > 1 and not envs:
                words += ["--coordinator", coordinator, "--num-processes", str(processes), "--process-id", str(i)]
            with (logs / f"{i}.out").open("w") as out, (logs / f"{i}.err").open("w") as err:
                self.processes.append(
                    subprocess.Popen(words, env={**env, **(envs[i] if envs else {})}, stdout=out, stderr=err)
                )

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def errors(self, process: int) -> str:
        return (self.logs / f"{process}.err").read_text()

    def output(self, process: int) -> str:
        return (self.logs / f"{process}.out").read_text()

    def ends(self, seconds: float = 200) -> list[int]:
        """The exit statuses, once all have ended."""
        until = time.monotonic() + seconds
        return [process.wait(max(0.1, until - time.monotonic())) for process in self.processes]

    def signal_after(self, text: str, process: int, number: int, seconds: float = 200) -> None:
        """Sends a signal to a process when the first one's log says `text`."""
        until = time.monotonic() + seconds
        while text not in self.errors(0):
            assert self.processes[0].poll() is None, self.errors(0)
            assert time.monotonic() < until, self.errors(0)
            time.sleep(0.01)  # a step takes some hundredths of a second
        self.processes[process].send_signal(number)


def train(folder: Path, *more: str) -> list[str]:
    """The words of a run of `RECIPE` into a folder."""
    keys = [word for key, value in RECIPE.items() for word in (f"--{key}", value)]
    return ["train", "--config", "smoke", "--output-dir", str(folder), *keys, *more]


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
