"""`crosscale predict --output FILE`: results of any number of pictures, none of them kept in memory."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import open_predictor, result_options, test_options, with_engine
from crosscale.cli.output import note, print_json, progress_bar
from crosscale.errors import RequestError
from crosscale.runtime import shown_duration

if TYPE_CHECKING:
    from crosscale.cli.sorted_copies import SortedCopies
    from crosscale.predictor import Predictor
    from crosscale.runs.ensemble import Ensemble
    from crosscale.runs.results_file import ResultsFile
    from crosscale.tasks.task import Task

_TELL_SECONDS = 60.0  # between lines of progress, where no terminal shows a bar
_NOT_WRITTEN = (".json", ".ndjson", ".tsv", ".txt", ".xls", ".xlsx", ".npz", ".pq")


def is_one_file(place: Path) -> bool:
    """Whether results written there are one file, and not a folder of files. Raises RequestError."""
    from crosscale.runs.results_file import SUFFIXES

    suffix = place.suffix.lower()
    if suffix in _NOT_WRITTEN and not place.is_dir():
        raise RequestError(f"--output {place}: a file of results ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return suffix in SUFFIXES and not place.is_dir()


def open_predictors(options: argparse.Namespace, batch_size: int) -> "Predictor | Ensemble":
    """The model, or the mean of several runs or views, with the engine that is asked for.

    Args:
      batch_size: pictures per forward.

    Raises RequestError, WorkError.
    """
    first = with_engine(options, open_predictor(options), batch_size, "predict")
    if len(options.runs) < 2 and not options.tta:
        return first
    from crosscale.predictor import Predictor
    from crosscale.runs.ensemble import Ensemble

    others = [
        with_engine(options, Predictor.from_run(run, task_options=test_options(options)), batch_size, "predict")
        for run in options.runs[1:]
    ]
    return Ensemble([first, *others], options.tta)


def sorted_copies(options: argparse.Namespace, task: "Task", files: list[Any]) -> "SortedCopies | None":
    """What `--sort-into` asks for; None without it. Raises RequestError."""
    if options.sort_into is None:
        return None
    from crosscale.cli.sorted_copies import SortedCopies

    return SortedCopies(options.sort_into, task, options.images, files)


def predict_to_file(options: argparse.Namespace, files: list[Any], *, as_json: bool) -> int:
    """Predicts and prints the file's name; returns 1 if a picture could not be used. Raises RequestError, WorkError."""
    import jax

    if jax.process_count() > 1:
        raise RequestError(f"--output {options.output}: one process writes a file; several write a folder")
    batch_size = max(1, min(options.batch_size, len(files)))
    predictor = open_predictors(options, batch_size)
    said = result_options(options, predictor.task)
    copies = sorted_copies(options, predictor.task, files)
    from crosscale.runs.results_file import ResultsFile

    about = _about(predictor, {**said, **test_options(options), "tta": options.tta})
    begun = options.output.with_name(f"{options.output.name}.partial").exists()
    if options.resume and not begun and options.output.exists():
        note(f"crosscale predict: {options.output} is complete; without --resume it is written anew")
        return _told(options.output, as_json, images=None, predicted=0, failed=None)
    with ResultsFile(options.output, about, resume=options.resume, part=batch_size) as results:
        left = results.remaining(files)
        if results.count:
            note(f"crosscale predict: going on after {results.count:,} results; {len(left):,} pictures are left")
        try:
            _predict(predictor, left, results, copies, batch_size=batch_size, **said)
        except BaseException:
            if results.count:
                note(
                    f"crosscale predict: {results.count:,} results are in {results.partial}, for --resume to go on with"
                )
            raise
        results.finish(predictor.task.cells)
    if copies is not None:
        copies.tell()
    if results.failed:
        note(f"crosscale predict: {results.failed:,} of {results.count:,} files could not be used")
    counts = {"images": results.count, "predicted": len(left), "failed": results.failed}
    return _told(options.output, as_json, **counts)


def _predict(
    predictor: "Predictor | Ensemble",
    files: list[Any],
    results: "ResultsFile",
    copies: "SortedCopies | None",
    **how: Any,
) -> None:
    before, total = results.count, results.count + len(files)
    began = told = time.monotonic()
    with progress_bar("predicting") as report:
        report(before, total)
        for file, result in zip(files, predictor.predict(files, **how), strict=True):
            plain = result.json()
            if copies is not None:
                copies.add(file, plain)  # first, so that whatever is in the file has its copy
            results.add(plain)
            report(results.count, total)
            if result.error is not None:
                note(f"crosscale predict: {result.source}: {result.error}")
            if not sys.stderr.isatty() and (now := time.monotonic()) - told > _TELL_SECONDS:
                rate, told = (results.count - before) / (now - began), now
                left = shown_duration((total - results.count) / rate)
                note(f"crosscale predict: {results.count:,} of {total:,}, {rate:.0f} images/s, about {left} to go")


def _about(predictor: "Predictor | Ensemble", options: dict[str, Any]) -> dict[str, Any]:
    """What the results depend on besides the pictures."""
    from crosscale.artifact import file_digest
    from crosscale.predictor import Predictor

    models = [predictor] if isinstance(predictor, Predictor) else predictor.predictors
    engines = [model.engine for model in models]
    if set(engines) != {"jax"}:  # files older than the other engines name none
        options = {**options, "engine": engines}
    return {
        "weights": [file_digest(Path(model.source)) for model in models],
        "labels": list(predictor.task.labels),
        "task": [{"name": model.task.name, **model.task.artifact_options()} for model in models],
        "options": options,
    }


def _told(file: Path, as_json: bool, **counts: int | None) -> int:
    if as_json:
        print_json({"output": str(file), **counts})
    else:
        print(file)
    return 1 if counts["failed"] else 0
