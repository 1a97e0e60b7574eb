"""What a run tells: a live display or plain lines on standard error, and files in its folder."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

METRICS = "metrics.jsonl"


class RunLog:
    """Writes `metrics.jsonl`, `tensorboard/` and `log.txt`, and keeps whoever watches informed."""

    def __init__(self, folder: Path, *, start_step: int, start_epoch: int, total_steps: int) -> None:
        """
        Args:
          folder: the run's.
          start_step: what the metrics hold of later steps is taken out of them; 0 begins anew.
          start_epoch: epochs that were finished; likewise.
          total_steps: of the whole run, for the display.
        """
        self._started = time.monotonic()
        truncate_metrics(folder / METRICS, start_step, start_epoch)
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        self._text = (folder / "log.txt").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        console = Console(file=sys.stderr, highlight=False)
        self._display: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._display = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar = self._display.add_task("starting", total=total_steps, completed=start_step)
            self._display.start()

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line to `metrics.jsonl` and its numbers to TensorBoard. NaN becomes null in JSON."""
        line = {"kind": kind, "step": step, **{name: _finite(value) for name, value in values.items()}}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def line(self, text: str) -> None:
        """A line for the log, shown to whoever watches."""
        self._write(text)
        if self._display is not None:
            self._display.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def progress(self, step: int, text: str) -> None:
        """Where the run stands: beside the bar on a terminal, else a line."""
        if self._display is None:
            self.line(text)
        else:
            self._write(text)
            self._display.update(self._bar, completed=step, description=text)

    def tick(self, step: int) -> None:
        """Moves the bar only."""
        if self._display is not None:
            self._display.update(self._bar, completed=step)

    def close(self) -> None:
        """Ends the display and closes the files."""
        if self._display is not None:
            self._display.stop()
        self._board.close()
        self._metrics.close()
        self._text.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._text.closed:
            self._write(f"ended by {type(error).__name__}: {error}")
        self.close()

    def _write(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._text.write(f"{stamp} {time.monotonic() - self._started:9.1f}s  {text}\n")
        self._text.flush()


class CollectedLog(logging.Handler):
    """While in use, keeps the lines that the package logs: those of before there is a run log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "CollectedLog":
        logger = logging.getLogger("crosscale")
        self._before = logger.level, logger.propagate
        logger.propagate = False  # or a handler of the root logger would print the line as well
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *raised: object) -> None:
        logger = logging.getLogger("crosscale")
        logger.removeHandler(self)
        logger.level, logger.propagate = self._before


def truncate_metrics(path: Path, last_step: int, last_epoch: int) -> None:
    """Drops what will come again: lines after `last_step` or `last_epoch`, and a torn last line.

    The last step may have been taken without the validation that ends its epoch.
    """
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        done = line["epoch"] <= last_epoch if line["kind"] in ("epoch", "validate") else True
        if done and 0 < line["step"] <= last_step:
            kept.append(text + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
