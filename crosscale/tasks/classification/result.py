"""What a classification says of one picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crosscale.tasks.defaults import PlainResult
from crosscale.tasks.task import CaptionLine


@dataclass(frozen=True)
class Prediction(PlainResult):
    """What the model says of one picture.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      classes: names of the most probable classes, best first; empty where there is an error.
      probabilities: theirs, each in 0..1.
      error: one line on why the picture could not be used; None where it could.
    """

    source: str
    classes: Sequence[str]
    probabilities: Sequence[float]
    error: str | None = None

    def json(self) -> dict[str, Any]:
        """ "source", "classes", "probabilities" and "error"."""
        plain = asdict(self)
        return {**plain, "classes": list(self.classes), "probabilities": list(self.probabilities)}

    def rows(self) -> list[tuple[str, ...]]:
        """A line per class: its name, and its probability in percent."""
        return [(name, f"{100 * value:.2f} %") for name, value in zip(self.classes, self.probabilities, strict=True)]

    def caption(self) -> list[CaptionLine]:
        """A line per class, shaded by its probability."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        return [CaptionLine(name, f"{100 * value:.{1 if value >= 0.01 else 2}f} %", value) for name, value in pairs]
