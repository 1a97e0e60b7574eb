"""How long a run is, and where it stops on the way to validate and save."""

import math
from dataclasses import dataclass

from crosscale.engine.settings import TrainSettings
from crosscale.errors import RequestError
from crosscale.ranges import MOST_STEPS


@dataclass(frozen=True)
class RunLength:
    """A run as a number of spans: of one epoch each, or of `train.eval_steps` where the run is counted in steps.

    Attributes:
      total: steps of the run.
      span: steps of a span; the last one of a run counted in steps may be shorter.
      per_epoch: steps of a pass over the training data.
      eval_every: spans between validations; the last span is always validated.
      counts_epochs: whether the spans are epochs.
    """

    total: int
    span: int
    per_epoch: int
    eval_every: int
    counts_epochs: bool

    @property
    def spans(self) -> int:
        """How many there are."""
        return math.ceil(self.total / self.span)

    def end(self, spans: int) -> int:
        """Steps taken when that many spans are done."""
        return min(spans * self.span, self.total)

    def validates(self, spans: int) -> bool:
        """Whether a validation is due when that many spans are done."""
        return spans % self.eval_every == 0 or spans == self.spans

    def epochs(self, step: int) -> float:
        """Passes over the training data up to a step; a whole number is an int."""
        whole, rest = divmod(step, self.per_epoch)
        return step / self.per_epoch if rest else whole

    def shown(self, spans: int) -> str:
        """The end of a span for people: "epoch 3", "step 8000"."""
        return f"epoch {spans}" if self.counts_epochs else f"step {self.end(spans)}"


def check_total(train: TrainSettings, steps_per_epoch: int) -> None:
    """Raises RequestError for a run of more steps than JAX counts."""
    if (total := run_length(train, steps_per_epoch).total) > MOST_STEPS:
        raise RequestError(
            f"train.epochs={train.epochs}: {total:,} steps, and a run has at most {MOST_STEPS:,}; with "
            f"{steps_per_epoch:,} steps each that is {MOST_STEPS // steps_per_epoch:,} epochs"
        )


def run_length(train: TrainSettings, steps_per_epoch: int) -> RunLength:
    """The length that the settings ask for, `steps_per_epoch` being that of the training data."""
    if train.steps is None:
        total = train.epochs * steps_per_epoch
        return RunLength(total, steps_per_epoch, steps_per_epoch, train.eval_every, counts_epochs=True)
    span = min(train.eval_steps or math.ceil(train.steps / 10), train.steps)
    return RunLength(train.steps, span, steps_per_epoch, 1, counts_epochs=False)
