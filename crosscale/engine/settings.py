"""What a run is asked to do, as validated values; the recipe's sections of the same names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from crosscale.engine.ema import Ramp
from crosscale.errors import RequestError
from crosscale.ranges import BELOW_ONE, BETWEEN, COUNT, MOST_STEPS, NOT_NEGATIVE, POSITIVE, Range, check_ranges

AUTO: Literal["auto"] = "auto"
TrackerName: TypeAlias = Literal["tensorboard", "wandb", "mlflow", "trackio"]
SEED = Range("must lie in 0..2**31-1", lambda value: 0 <= value < 2**31)
# Beyond these the rate of a step is no number of 32 bits.
RATE = Range("must be positive, and at most 1e30", lambda value: 0 < value <= 1e30)
FACTOR = Range("must be positive, and at most 10", lambda value: 0 < value <= 10)
COUNT_OR_NONE = Range(f"must not be negative, and at most {MOST_STEPS:,}", lambda value: 0 <= value <= MOST_STEPS)
PARTS = Range("must be positive, or -1 for all that is left", lambda value: value >= 1 or value == -1)


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer and its rules by parameter name (regular expressions on the whole "a/b/c" name)."""

    name: Literal["adamw", "sgd", "lamb"] = "adamw"
    """AdamW (decoupled decay), SGD with momentum (decay added to the gradient), or LAMB."""
    lr: Annotated[float, RATE] = 1e-3
    """Peak learning rate."""
    lr_base_batch: Annotated[int | None, COUNT] = None
    """The batch size that lr is meant for: lr scales by batch_size / lr_base_batch; null leaves it alone."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.05
    """Weight decay of the parameters that no_decay leaves."""
    betas: Annotated[tuple[float, float], BELOW_ONE] = (0.9, 0.999)
    """Decay rates of the first and second moment (AdamW, LAMB)."""
    momentum: Annotated[float, BELOW_ONE] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum (SGD)."""
    eps: Annotated[float, POSITIVE] = 1e-8
    """Added to the root of the second moment (AdamW, LAMB)."""
    clip_norm: Annotated[float | None, POSITIVE] = None
    """Largest global norm of the gradients; null does not clip."""
    accumulate: Annotated[int, COUNT] = 1
    """Parts in which a batch's gradient is computed one after another, to save memory."""
    no_decay: tuple[str, ...] = (".*/bias", ".*/scale", ".*/cls", ".*/position")
    """Parameters without weight decay."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are."""
    lr_scales: tuple[tuple[str, float], ...] = ()
    """[pattern, factor] pairs on the learning rate; the first that matches counts."""
    layer_decay: Annotated[float | None, FACTOR] = None
    """Factor on the learning rate from each layer to the one below it, on top of lr_scales; null for none."""
    layer_rule: Literal["block", "timm"] = "block"
    """What layer_decay counts: every block and fusion, with the last norms beside the head; or as timm does a stage of
    CrossViT, every block of DeiT and CrossFormer, with the last norms in the last layer."""

    def __post_init__(self) -> None:
        check_ranges("optimizer", self)
        _patterns("optimizer.no_decay", self.no_decay)
        _patterns("optimizer.frozen", self.frozen)
        _patterns("optimizer.lr_scales", [pattern for pattern, _ in self.lr_scales])
        for pattern, factor in self.lr_scales:
            if not NOT_NEGATIVE.fits(factor):
                raise RequestError(f"optimizer.lr_scales: the factor of '{pattern}' is {factor}; 0 or more")


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over time: a linear warm-up, then the schedule."""

    name: Literal["cosine", "poly", "steps", "constant"] = "cosine"
    """Half a cosine from lr to min_lr, a power of the share of the run that is left (poly), lr that drops at
    drop_epochs (steps), or lr throughout."""
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 5.0
    """Length of the warm-up."""
    warmup_steps: Annotated[int | None, COUNT_OR_NONE] = None
    """Length of the warm-up in steps; null is that of warmup_epochs."""
    warmup_lr: Annotated[float, NOT_NEGATIVE] = 1e-6
    """Learning rate at the first step of the warm-up."""
    min_lr: Annotated[float, NOT_NEGATIVE] = 1e-5
    """Learning rate at the end of the run (cosine, poly)."""
    power: Annotated[float, POSITIVE] = 1.0
    """Schedule poly: the rate is min_lr + (lr - min_lr) (1 - t)^power, t being the share of the run that is over."""
    drop_epochs: Annotated[tuple[float, ...], POSITIVE] = ()
    """Schedule steps: after how many epochs lr drops, each time by drop_factor."""
    drop_factor: Annotated[float, POSITIVE] = 0.1
    """Schedule steps: what lr is multiplied by at a drop."""
    decay_epochs: Annotated[float | None, POSITIVE] = None
    """Length of one cosine; null is all that is left of the run, shared by the cycles. min_lr follows the last."""
    cycles: Annotated[int, COUNT] = 1
    """Cosines one after another, each from lr again."""
    warmup_prefix: bool = True
    """Whether the cosine begins where the warm-up ends. false begins it with the run, under the warm-up, as timm does:
    what follows the warm-up is then a little below lr."""
    per: Literal["step", "epoch"] = "step"
    """Whether the learning rate changes at every step or once an epoch."""

    def __post_init__(self) -> None:
        check_ranges("schedule", self)
        if (self.name == "steps") != bool(self.drop_epochs):
            raise RequestError(
                f"schedule.drop_epochs={list(self.drop_epochs)} and schedule.name={self.name}: the schedule steps "
                "drops at some epochs, and no other does"
            )


@dataclass(frozen=True)
class TrainSettings:
    """The length of the run, and what it does on the way."""

    epochs: Annotated[int, COUNT] = 300
    """Passes over the training data."""
    steps: Annotated[int | None, COUNT] = None
    """Length of the run in steps, in place of epochs; null counts epochs."""
    batch_size: Annotated[int | Literal["auto"], COUNT] = 256
    """Images per step, over all devices; auto is the largest that fits into their memory: a power of two times the
    number of devices and of optimizer.accumulate."""
    ema_decay: Annotated[float | None, BETWEEN] = None
    """Decay of the exponential moving average of the parameters; null keeps none."""
    ema_ramp: Ramp = "ratio"
    """How that decay begins: min(decay, (1 + step) / (10 + step)), decay (1 - exp(-(1 + step) / 2000)) as MindCV has it
    (exponential), or the whole decay at once, as in timm (none)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Compute type; the parameters stay float32. float16, for cards without bfloat16, scales the loss dynamically and
    leaves out the steps whose gradient overflows."""
    seed: Annotated[int, SEED] = 0
    """The seed of the initial weights, the held-out split, the order, the augmentation and dropout."""
    eval_every: Annotated[int, COUNT] = 1
    """Epochs between validations; the last epoch is always validated."""
    eval_steps: Annotated[int | None, COUNT] = None
    """Steps between validations of a run whose length is steps; null is a tenth of it."""
    log_every: Annotated[int, COUNT] = 50
    """Steps between lines of the log."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where the numbers of the log go besides metrics.jsonl; [] for nowhere."""
    checkpoint_every: Annotated[int | None, COUNT] = None
    """Steps between further checkpoints; null writes only those at each epoch's end, or at eval_steps."""
    keep_checkpoints: Annotated[int, COUNT] = 2
    """How many of the newest checkpoints are kept; the best one is kept in any case."""
    early_stop_epochs: Annotated[int | None, COUNT] = None
    """Stop at a validation that ends this many epochs or more without a better one; null goes to the end."""
    on_nonfinite: Literal["error", "skip", "rollback"] = "error"
    """What happens when a loss or gradient is not finite: end the run, leave that step out, or go back to the newest
    checkpoint's parameters and on with the next step."""
    remat: Literal["none", "blocks"] = "none"
    """Whether the backward pass computes the blocks' insides again: less memory for activations, a longer step."""

    def __post_init__(self) -> None:
        check_ranges("train", self)
        if self.eval_steps is not None and self.steps is None:
            raise RequestError(
                f"train.eval_steps={self.eval_steps} goes with train.steps; epochs have train.eval_every"
            )

    @property
    def images_per_step(self) -> int:
        """The batch size as a number. Raises RequestError where it is auto, and not chosen yet."""
        if isinstance(self.batch_size, str):
            raise RequestError("train.batch_size=auto is chosen where a training begins; give a number here")
        return self.batch_size


@dataclass(frozen=True)
class ValidateSettings:
    """How the held-out data is evaluated."""

    batch_size: Annotated[int, COUNT] = 256
    """Images per forward, over all devices; the last one is filled up."""
    use_ema: bool = True
    """Whether the average of the parameters is validated and kept as best, where the run keeps one."""
    best: str | None = None
    """The measure that the best weights are chosen by; null is the task's own."""
    calibrate: bool = False
    """Whether the end of the training chooses the best weights' temperature, as `crosscale calibrate` does."""

    def __post_init__(self) -> None:
        check_ranges("validate", self)


@dataclass(frozen=True)
class MeshSettings:
    """How the devices of all processes share the work; the results do not depend on it."""

    data: Annotated[int, PARTS] = -1
    """Devices in a column: they hold the same part of the parameters; -1 takes what fsdp leaves."""
    fsdp: Annotated[int, PARTS] = 1
    """Parts into which parameters, optimizer state and average are split; -1 takes what data leaves."""

    def __post_init__(self) -> None:
        check_ranges("mesh", self)
        if self.data == self.fsdp == -1:
            raise RequestError("mesh.data=-1, mesh.fsdp=-1: only one of them can take what is left")


def _patterns(key: str, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise RequestError(f"{key}: '{pattern}' is not a regular expression ({error})") from None
