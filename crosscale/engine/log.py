"""What a run tells: a live display or plain lines on standard error, and files in its folder."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crosscale.engine.trackers import Tracked, Trackers
from crosscale.errors import RequestError, WorkError
from crosscale.runtime import Lasting, printable, tell

METRICS, TEXT = "metrics.jsonl", "log.txt"
_WIDE = 150  # from so many terminal columns on the whole line fits beside the bar and the time


class RunLog:
    """Writes `metrics.jsonl` and `log.txt`, tells the trackers, and keeps whoever watches informed."""

    def __init__(
        self,
        folder: Path,
        *,
        start_step: int,
        start_epoch: float,
        total_steps: int,
        trackers: Sequence[str] = ("tensorboard",),
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
          folder: the run's.
          start_step: what the metrics hold of later steps is taken out of them; 0 begins anew.
          start_epoch: where the last validation or end of an epoch that counts was; likewise.
          total_steps: of the whole run, for the display.
          trackers: names of `train.trackers`.
          recipe: for the trackers, as nested dictionaries.
        """
        self._started = time.monotonic()
        self._folder = folder
        for name in (METRICS, TEXT):
            _refuse_link(folder / name)
        truncate_metrics(folder / METRICS, start_step, start_epoch)
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        self._text = (folder / TEXT).open("a", encoding="utf-8", errors="backslashreplace")
        console = Console(file=cast(TextIO, Lasting(sys.stderr)), highlight=False)  # the terminal may be closed
        self._display: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._wide = console.width >= _WIDE
            self._display = Progress(
                TextColumn("{task.description}"),
                BarColumn(40 if self._wide else 16),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar = self._display.add_task("starting", total=total_steps, completed=start_step)
            self._display.start()
        self._trackers = Trackers(trackers, Tracked(folder, start_step, recipe or {}), self.line)

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line to `metrics.jsonl` and gives its numbers to the trackers. NaN becomes null in JSON."""
        line = {"kind": kind, "step": step, **{name: _finite(value) for name, value in values.items()}}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics.flush()
        numbers = {
            f"{kind}/{name}": float(value)
            for name, value in values.items()
            # NaN says that nothing was counted; TensorBoard would warn of it each time.
            if isinstance(value, (int, float))
            and not isinstance(value, bool)
            and (kind != "validate" or value == value)
        }
        self._trackers.log(step, numbers)

    def line(self, text: str) -> None:
        """A line for the log, shown to whoever watches. Names of files may hold what a terminal would obey."""
        text = printable(text)
        self._write(text)
        if self._display is not None:
            self._display.console.print(text, markup=False)
        else:
            tell(text)

    def here(self, text: str) -> None:
        """A line about what only this process saw, where several train together."""
        self.line(text)

    def window_line(self, step: int, text: str, short: str = "") -> None:
        """Where the run stands: beside the bar on a terminal, else a line.

        Args:
          short: what stands beside the bar where the whole text would push the time that remains off the terminal.
        """
        if self._display is None:
            self.line(text)
        else:
            self._write(text)
            self._display.update(self._bar, completed=step, description=text if self._wide else short or text)

    def tick(self, step: int) -> None:
        """Moves the bar only."""
        if self._display is not None:
            self._display.update(self._bar, completed=step)

    def check_place(self) -> None:
        """Raises WorkError where the run's folder was moved or deleted: what is saved now would lie elsewhere."""
        try:
            there = os.path.samestat(os.fstat(self._metrics.fileno()), (self._folder / METRICS).stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise WorkError(
                f"{self._folder}: was moved or deleted while the run was writing there; where it is moved to, "
                "--resume goes on from the last checkpoint"
            )

    def close(self, *, failed: bool = False) -> None:
        """Ends the display, closes the trackers and the files."""
        if self._display is not None:
            self._display.stop()
        with ExitStack() as files:  # each is closed, even where another can no longer be written
            for file in (self._text, self._metrics):
                files.callback(file.close)
            self._trackers.close(failed=failed)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The disc may be what failed; what ended the run is the news, not that this cannot be written.
        with suppress(OSError):
            if not self._text.closed:
                self._write(printable(f"ended by {type(error).__name__}: {error}"))
        with suppress(OSError):
            self.close(failed=True)

    def _write(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._text.write(f"{stamp} {time.monotonic() - self._started:9.1f}s  {text}\n")
        self._text.flush()


class QuietLog(RunLog):
    """The log of a process that does not write, because another one does."""

    def __init__(self, process: int) -> None:
        self._process = process

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def here(self, text: str) -> None:
        tell(printable(f"process {self._process}: {text}"))

    def window_line(self, step: int, text: str, short: str = "") -> None:
        pass

    def check_place(self) -> None:
        pass

    def tick(self, step: int) -> None:
        pass

    def close(self, *, failed: bool = False) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        pass


class CollectedLog(logging.Handler):
    """While in use, keeps the lines that the package logs before there is a run log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "CollectedLog":
        logger = logging.getLogger("crosscale")
        self._before = logger.level, logger.propagate, logger.handlers[:]
        # Or another handler, the root logger's or that of the command line, would print the line as well.
        logger.propagate, logger.handlers[:] = False, [self]
        logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *raised: object) -> None:
        logger = logging.getLogger("crosscale")
        level, logger.propagate, logger.handlers[:] = self._before
        logger.setLevel(level)  # the attribute alone would leave what logging remembers of it


def _refuse_link(path: Path) -> None:
    """Raises RequestError for a link: in a run folder from elsewhere, it could lead to any file of the user's."""
    if path.is_symlink():
        raise RequestError(
            f"{path}: is a link to {os.readlink(path)}, and a run writes into its own folder alone; remove the link"
        )


def truncate_metrics(path: Path, last_step: int, last_epoch: float) -> None:
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
