"""What a multi-label classification says of one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosscale.tasks.defaults import PlainResult
from crosscale.tasks.task import CaptionLine


@dataclass(frozen=True)
class Tagged(PlainResult):
    """What the model says of one picture.

    Attributes:
      source: the file's path, or "image/<position>" for bytes and arrays.
      names: of all labels.
      probabilities: theirs, each in 0..1; empty where there is an error.
      thresholds: a label is said from this probability on.
      error: one line on why the picture could not be used; None where it could.
    """

    source: str
    names: Sequence[str]
    probabilities: Sequence[float]
    thresholds: Sequence[float]
    error: str | None = None

    @property
    def labels(self) -> list[str]:
        """Those that are said, the most probable first."""
        return [name for name, probability, limit in self._ranked() if probability >= limit]

    def _ranked(self) -> list[tuple[str, float, float]]:
        if not self.probabilities:
            return []
        found = zip(self.names, self.probabilities, self.thresholds, strict=True)
        return sorted(found, key=lambda item: -item[1])

    def json(self) -> dict[str, Any]:
        """ "source", "labels", "probabilities" of all labels by name, and "error"."""
        named = dict(zip(self.names, self.probabilities, strict=True)) if self.probabilities else {}
        return {"source": self.source, "labels": self.labels, "probabilities": named, "error": self.error}

    def rows(self) -> list[tuple[str, ...]]:
        """A line per label that is said, or one of dashes where none is."""
        found = self._ranked()
        said: list[tuple[str, ...]] = [(name, f"{100 * value:.2f} %") for name, value, limit in found if value >= limit]
        return said or ([("\N{EN DASH}", "\N{EN DASH}")] if self.error is None else [])

    def caption(self) -> list[CaptionLine]:
        """A line per label, the most probable first, shaded by its probability; a tick at those that are said."""
        return [
            CaptionLine(name, f"{100 * value:.1f} %{' yes' if value >= limit else ''}", value)
            for name, value, limit in self._ranked()
        ]
