"""Other programs in place of JAX's on a processor: the exported one under onnxruntime or OpenVINO.

An engine takes the pictures that the predictor prepares and gives what `Predictor.outputs` gives. It is compared with
the model on real photographs before it is used.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from crosscale.errors import RequestError, WorkError
from crosscale.export.formats import FORMATS, Format, Run
from crosscale.export.onnx import open_onnx
from crosscale.export.openvino import open_openvino
from crosscale.export.photographs import load_pictures
from crosscale.export.program import Program, deviation
from crosscale.export.stored import stored_onnx
from crosscale.predictor import Predictor

OPENERS: Mapping[str, Callable[[Path], Run]] = {"onnxruntime": open_onnx, "openvino": open_openvino}
ENGINES = ("jax", *OPENERS)
# The format whose packages an engine needs.
ENGINE_FORMATS: Mapping[str, Format] = {"onnxruntime": FORMATS["onnx"], "openvino": FORMATS["openvino"]}

TOLERANCE = 1e-4  # of the largest output
LARGEST_TRIAL = 8  # pictures at once
TRIAL_SECONDS = 2.0
TURNS = (3, 20)  # of every engine in a trial, at least and at most


@dataclass(frozen=True)
class Trial:
    """What was found out about one engine.

    Attributes:
      engine: its name.
      images_per_second: of its quickest turn; None where no trial was made.
      deviation: from the model's outputs, as a share of the largest; None for JAX itself.
      reason: why it is not used; None where it could be.
    """

    engine: str
    images_per_second: float | None = None
    deviation: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Chosen:
    """A predictor with its engine.

    Attributes:
      predictor: as it was, except for its program.
      engine: whose program that is.
      batch_size: of the trial.
      trials: of every engine that was looked at.
    """

    predictor: Predictor
    engine: str
    batch_size: int
    trials: tuple[Trial, ...]

    def told(self) -> str:
        """Which engine and why, in one line."""
        if len(self.trials) == 1:
            return f"engine {self.engine}: equal to {self.trials[0].deviation or 0:.0e} of the largest output"
        parts = []
        for trial in sorted(self.trials, key=lambda trial: -(trial.images_per_second or 0)):
            said = [trial.reason] if trial.reason else []
            if trial.images_per_second is not None:
                said.append(f"{trial.images_per_second:,.1f} images/s")
            if trial.deviation is not None and trial.reason is None:
                said.append(f"equal to {trial.deviation:.0e}")
            parts.append(f"{trial.engine} {', '.join(said)}")
        return f"engine {self.engine}: {'; '.join(parts)} (batches of {self.batch_size})"


def choose_engine(
    predictor: Predictor,
    engine: str,
    *,
    batch_size: int = 1,
    on_phase: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Chosen:
    """The predictor with the engine that is asked for, or with the fastest of those that are installed.

    Args:
      engine: "jax", "onnxruntime", "openvino", or "auto".
      batch_size: pictures at once in the trial of "auto", 8 at most.
      on_phase: told what is done next, how many phases are done, and of how many.

    Raises:
      RequestError: there is no such engine, its packages are missing, or the task's outputs are no row of numbers.
        Under "auto" these are reasons to leave an engine out.
      WorkError: the engine's outputs differ from the model's by more than 1e-4 of the largest; likewise.
    """
    if engine not in (*ENGINES, "auto"):
        raise RequestError(f"--engine {engine}: one of {', '.join((*ENGINES, 'auto'))}")
    candidates = _Candidates(predictor, max(1, min(batch_size, LARGEST_TRIAL)))
    if engine == "jax":
        return Chosen(predictor, engine, candidates.count, (Trial(engine),))
    if engine != "auto":
        on_phase(f"making the program of {engine}", 0, 1)
        run, off = candidates.checked(engine)
        on_phase("done", 1, 1)
        return Chosen(predictor.run_by(run, engine), engine, candidates.count, (Trial(engine, deviation=off),))
    runs: dict[str, Run] = {"jax": candidates.jax}
    trials = {"jax": Trial("jax")}
    for done, name in enumerate(OPENERS):
        on_phase(f"making the program of {name}", done, len(ENGINES))
        try:
            runs[name], off = candidates.checked(name)
            trials[name] = Trial(name, deviation=off)
        except (RequestError, WorkError) as error:
            trials[name] = Trial(name, reason=str(error).removeprefix(f"--engine {name}: "))
    on_phase("trying which is the fastest", len(OPENERS), len(ENGINES))
    seconds = quickest(runs, candidates.batches[0])
    for name, best in seconds.items():
        trials[name] = replace(trials[name], images_per_second=candidates.count / best)
    on_phase("done", len(ENGINES), len(ENGINES))
    fastest = min(seconds, key=lambda name: seconds[name])
    chosen = predictor if fastest == "jax" else predictor.run_by(runs[fastest], fastest)
    return Chosen(chosen, fastest, candidates.count, tuple(trials.values()))


def quickest(runs: Mapping[str, Run], batch: np.ndarray, seconds: float = TRIAL_SECONDS) -> dict[str, float]:
    """Seconds of each one's quickest turn on a batch; they take turns, after one that does not count.

    Args:
      seconds: about how long each of them runs in all, but at least 3 and at most 20 turns.
    """
    for run in runs.values():
        run(batch)
    best = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds * len(runs)
    for turn in range(TURNS[1]):
        if turn >= TURNS[0] and time.perf_counter() > end:
            break
        for name, run in runs.items():
            began = time.perf_counter()
            run(batch)
            best[name] = min(best[name], time.perf_counter() - began)
    return best


class _Candidates:
    """What the engines of one predictor share: the photographs, the model's outputs for them, the exported program."""

    def __init__(self, predictor: Predictor, count: int) -> None:
        self.predictor, self.count = predictor, count
        self._program = Program(predictor, activated=False)

    def jax(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.predictor.outputs(images))

    @cached_property
    def batches(self) -> list[np.ndarray]:
        """The package's photographs as the model takes them, in batches, some of them again to fill the last one."""
        pictures = load_pictures(self.predictor.spec)
        total = -(-len(pictures) // self.count) * self.count
        filled = np.resize(pictures, (total, *pictures.shape[1:]))
        return [filled[start : start + self.count] for start in range(0, total, self.count)]

    @cached_property
    def expected(self) -> list[np.ndarray]:
        return [self.jax(batch) for batch in self.batches]

    def checked(self, name: str) -> tuple[Run, float]:
        """An engine's program, and how far its outputs are from the model's. Raises RequestError, WorkError."""
        form = ENGINE_FORMATS[name]
        if (package := form.missing()) is not None:
            raise RequestError(f"--engine {name}: needs {package}; pip install 'crosscale[{form.extra}]'")
        predictor = self.predictor
        task, spec = predictor.task, predictor.spec
        if len(predictor.output_shape) != 1 or task.content(spec, spec.size) is not None:
            raise RequestError(
                f"--engine {name}: {task.name} gives more than a row of numbers for an image; only jax runs it"
            )
        file, stored = stored_onnx(self._program)
        run, found = self._opened(name, file)
        if not found <= TOLERANCE and stored:  # made by an earlier state of the package
            file.unlink(missing_ok=True)
            run, found = self._opened(name, stored_onnx(self._program)[0])
        if not found <= TOLERANCE:
            raise WorkError(
                f"--engine {name}: its outputs differ from the model's by {found:.2g} of the largest, "
                f"more than {TOLERANCE:.2g}"
            )
        return run, found

    def _opened(self, name: str, file: Path) -> tuple[Run, float]:
        """The program, and its deviation. Raises WorkError where the engine does not run it."""
        try:
            run = OPENERS[name](file)
            found = [run(batch) for batch in self.batches]
        except Exception as error:  # of many types, below Exception alone
            reason = " ".join(str(error).split())[-200:] or type(error).__name__
            raise WorkError(f"--engine {name}: does not run the program (... {reason})") from None
        return run, max(deviation(given, wanted) for given, wanted in zip(found, self.expected, strict=True))
