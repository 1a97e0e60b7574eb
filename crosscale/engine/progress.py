"""How far a run is, as its checkpoints keep it."""

from dataclasses import dataclass, field
from typing import Any

from crosscale.engine.averages import Sums


@dataclass
class Progress:
    """What a checkpoint has to hold for the host. Everything in it is plain, so that JSON can hold it.

    Attributes:
      epoch: epochs that are done, with their validation where one was due; in a run counted in steps the spans between
        validations (`RunLength`).
      window: sums over the steps since the last line of the log.
      epoch_sums: sums over the steps so far of the epoch, or span.
      best: the record of the best validation: "step", "epoch", "score" and "metrics"; None before one.
      skipped_images: pictures that did not decode, counted each time.
      skipped_steps: steps left out because a number was not finite.
      updates: steps that the parameters have learnt from.
      most_updates: the most that they ever had; a rollback takes some away.
      rollbacks: how often the parameters went back to a checkpoint.
      vain_rollbacks: how many came in a row before there were more than `most_updates`.
      recent_losses: of the latest steps, for `spikes`.
      spiking: whether the latest of them was a spike.
      patience_from: the step at which the run was last extended: what went before counts no longer against it.
    """

    epoch: int = 0
    window: Sums = field(default_factory=dict)
    epoch_sums: Sums = field(default_factory=dict)
    best: dict[str, Any] | None = None
    skipped_images: int = 0
    skipped_steps: int = 0
    updates: int = 0
    most_updates: int = 0
    rollbacks: int = 0
    vain_rollbacks: int = 0
    recent_losses: list[float] = field(default_factory=list)
    spiking: bool = False
    patience_from: int = 0
