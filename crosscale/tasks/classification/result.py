"""What a classification says of one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosscale.tasks.defaults import PlainResult
from crosscale.tasks.task import CaptionLine

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Prediction(PlainResult):
    """What the model says of one picture.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      classes: names of the most probable classes, best first; empty where there is an error.
      probabilities: theirs, each in 0..1.
      error: one line on why the picture could not be used; None where it could.
      reject: the least probability that is answered; None answers every picture.
    """

    source: str
    classes: Sequence[str]
    probabilities: Sequence[float]
    error: str | None = None
    reject: float | None = None

    @property
    def rejected(self) -> bool:
        """Whether the most probable class is below the least probability that is answered."""
        return self.reject is not None and bool(self.classes) and self.probabilities[0] < self.reject

    def json(self) -> dict[str, Any]:
        """ "source", "classes", "probabilities" and "error"; with a threshold also "answer", the class or "unknown"."""
        plain = {"source": self.source, "classes": list(self.classes), "probabilities": list(self.probabilities)}
        first = UNKNOWN if self.rejected else next(iter(self.classes), None)
        return {**plain, **({} if self.reject is None else {"answer": first}), "error": self.error}

    def rows(self) -> list[tuple[str, ...]]:
        """A line per class: its name, and its probability in percent; one before them where the answer is unknown."""
        found = [(name, f"{100 * value:.2f} %") for name, value in zip(self.classes, self.probabilities, strict=True)]
        return [*((line.text, line.value) for line in self._unknown()), *found]

    def caption(self) -> list[CaptionLine]:
        """A line per class, shaded by its probability; a line before them where the answer is unknown."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        lines = [CaptionLine(name, f"{100 * value:.{1 if value >= 0.01 else 2}f} %", value) for name, value in pairs]
        return [*self._unknown(), *lines]

    def _unknown(self) -> list[CaptionLine]:
        return [CaptionLine(UNKNOWN, f"below {100 * (self.reject or 0):.2f} %")] if self.rejected else []
