"""Writes report pages: of a finished run, of several, and of one that is still training."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from crosscale.engine.environment import record_environment
from crosscale.engine.run_folder import is_training, write_text
from crosscale.errors import RequestError, WorkError
from crosscale.measure import Costs, count_costs
from crosscale.pretrained import restore_model
from crosscale.report.analysis import Analysis, analyse
from crosscale.report.compare import render_comparison
from crosscale.report.page import render_run
from crosscale.report.records import Run, read_run

REPORT = "report.html"

log = logging.getLogger("crosscale.report")

_STARTUP_SECONDS = 10.0  # what a pass costs besides its pictures: loading weights, compiling


def write_report(
    folder: str | Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Path, list[str]]:
    """Writes `report.html` into a run folder, with a pass over its held-out pictures where that can be.

    Returns:
      The page, and what it had to leave out, a sentence each.

    Raises:
      RequestError: not a run folder, or its files cannot be read.
      WorkError: the page cannot be written.
    """
    run = read_run(folder)
    analysis, warnings = None, []
    if run.best is not None:
        try:
            analysis = analyse(run.folder, on_progress)
        except (RequestError, WorkError) as error:
            warnings.append(f"the pass over the held-out pictures failed: {error}.")
    else:
        warnings.append("no validation yet: classes, mistakes and attention come with the first one.")
    idle = run.goes_on and not is_training(run.folder)
    notes = [_unfinished(run, "no process trains it now")] if idle else []
    return _write(run.folder / REPORT, render_run(run, analysis, [*notes, *warnings], costs_of(run))), warnings


def write_comparison(folders: Sequence[str | Path], output: Path, *, spread: bool = False) -> Path:
    """Writes a page of several runs.

    Args:
      spread: the results end with their mean and deviation, as those of folds do.

    Raises:
      RequestError: fewer than two runs, one that is named twice, or one that cannot be read.
      WorkError: the page cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    resolved = [run.folder.resolve() for run in runs]
    if len(runs) < 2:
        raise RequestError("a comparison needs two runs or more")
    for path in resolved:
        if resolved.count(path) > 1:
            raise RequestError(f"{path}: named twice; name each run once")
    return _write(output, render_comparison(runs, [costs_of(run) for run in runs], spread=spread))


def costs_of(run: Run) -> Costs | None:
    """What the run's model costs; None where the model cannot be built from what the folder says."""
    if run.best is None:
        return None
    try:
        return count_costs(restore_model(run.best, run.folder), run.best.input_spec)
    except RequestError:
        return None


class LiveReport:
    """Keeps a run's page up to date while it trains, at little cost.

    The curves are drawn anew after every epoch. The pass over the held-out pictures is made when the best weights
    are new and the pass is expected to take less than `share` of the time since the last one; and at the end.
    A page that cannot be written is no reason to lose a run: it is a warning in the log.
    """

    def __init__(self, folder: Path, command: Sequence[str] | None = None, *, share: float = 0.05) -> None:
        self.folder = folder
        self._share = share
        self._command = command
        self._analysis: Analysis | None = None
        self._costs: Costs | None = None
        self._analysed_step: int | None = None
        self._last_pass = time.monotonic()

    def refresh(self, *, final: bool = False, ended: str = "") -> None:
        """Writes the page as things stand; `final` makes the pass whatever it costs, if it is due.

        Args:
          ended: how the run ended before its end, for the page; "" where it goes on or is done.
        """
        if jax.process_index() != 0:  # one writer
            return
        try:
            record_environment(self.folder, self._command)
            self._command = None
            run = read_run(self.folder)
            if run.best is not None and self._costs is None:
                self._costs = costs_of(run)
            warnings = [_unfinished(run, ended)] if ended and run.goes_on else []
            warnings += self._analyse(run, final, bool(ended))
            _write(self.folder / REPORT, render_run(run, self._analysis, warnings, self._costs))
        except Exception as error:  # whatever it is, the training goes on
            log.warning("%s: the report was not written (%s: %s)", self.folder, type(error).__name__, error)

    def _analyse(self, run: Run, final: bool, ended: bool) -> list[str]:
        if run.best is None or (step := run.best.step) == self._analysed_step:
            return []
        if not final and self._expected_seconds(run) > self._share * (time.monotonic() - self._last_pass):
            stale = "show the weights before the latest best" if self._analysis else "are not here yet"
            when = "" if ended else "with a later epoch or at the run's end, and at any time "
            return [
                f"classes, mistakes and attention {stale}; they come {when}with crosscale report {run.folder}. "
                f"This page is of epoch {run.epochs:.4g}."
            ]
        try:
            self._analysis = analyse(self.folder)
            self._analysed_step = step
        except (RequestError, WorkError) as error:
            return [f"the pass over the held-out pictures failed: {error}."]
        finally:
            self._last_pass = time.monotonic()
        return []

    def _expected_seconds(self, run: Run) -> float:
        examples = run.metrics.get("examples") or 0
        rate = run.curves.val_rate[-1][1] if run.curves.val_rate else 0.0
        return _STARTUP_SECONDS + (float(examples) / rate if rate else 0.0)


def _unfinished(run: Run, how: str) -> str:
    """Which part of the run is missing, why, and the command that goes on with it."""
    done = f"{run.epochs:.4g} of {run.planned_epochs} epochs"
    if run.planned_steps is not None:
        done = f"{run.steps:,} of {run.planned_steps:,} steps"
    return f"{done} are done ({how}); to go on: crosscale train --output-dir {run.folder} --resume"


def _write(path: Path, text: str) -> Path:
    try:
        write_text(path, text)
    except IsADirectoryError:
        raise RequestError(f"{path}: is a folder; give the name of a file") from None
    except FileNotFoundError:
        raise RequestError(f"{path.parent}: no such folder for the page") from None
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
