"""Any task with logits, with a teacher: soft or hard distillation (Touvron et al.: DeiT, ICML 2021, section 4).

DeiT gives the teacher's share a token and a classifier of its own; the models here have none, so that both shares
act on the same logits, as in the paper's ablation without that token ("usual" and "hard" distillation, Table 3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from crosscale.contracts import Array
from crosscale.errors import RequestError
from crosscale.ranges import POSITIVE, SHARE, check_ranges
from crosscale.tasks.metric import DeviceBatch
from crosscale.tasks.task import Losses, Task

_USUAL = {"soft": 0.1, "hard": 0.5}  # the paper's shares


@dataclass(frozen=True)
class DistillSettings:
    """A teacher whose answers are learnt beside the targets."""

    teacher: str | None = None
    """A run folder, or a preset; null trains without a teacher."""
    weights: str | None = None
    """Weight file of a teacher that is a preset; null takes the published ones."""
    kind: Literal["soft", "hard"] = "soft"
    """Learn the teacher's probabilities, or its most probable class as if it were the label."""
    temperature: Annotated[float, POSITIVE] = 3.0
    """Divides both models' logits (soft)."""
    share: Annotated[float | None, SHARE] = None
    """The teacher's share of the loss, the targets have the rest; null is 0.1 for soft and 0.5 for hard."""

    def __post_init__(self) -> None:
        check_ranges("distill", self)


class Distilled:
    """A task that also learns from a teacher; in all but the training loss it is the task itself."""

    def __init__(self, task: Task, teacher: Callable[[Array], Array], settings: DistillSettings) -> None:
        """
        Args:
          task: whose outputs are logits, with the classes last.
          teacher: normalised (and augmented) images (B, H, W, C) -> logits of the outputs' shape.
          settings: how its answers count.

        Raises:
          RequestError: the task has no logits.
        """
        if not task.has_logits:
            raise RequestError(f"distill.teacher: the task '{task.name}' has no logits that a teacher could teach")
        self.task = task
        self.teacher = teacher
        self.settings = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def augment(self, key: Array, images: Array, batch: DeviceBatch) -> tuple[Array, Any]:
        """As the task's; the targets come with the teacher's logits on the same images."""
        images, targets = self.task.augment(key, images, batch)
        return images, (targets, jax.lax.stop_gradient(self.teacher(images)))

    def loss(self, outputs: Array, targets: Any, weight: Array) -> tuple[Losses, Array]:
        """(1 - share) * the task's parts, and share * the teacher's part (DeiT, eqs. 2 and 3); sum of weights.

        Soft: temperature^2 * KL(teacher || student) of the probabilities at that temperature. Hard: the
        cross-entropy with the teacher's most probable class. Maps give the mean over the places.
        """
        own, taught = targets
        settings = self.settings
        share = _USUAL[settings.kind] if settings.share is None else settings.share
        parts, count = self.task.loss(outputs, own, weight)
        losses = _taught(outputs.astype(jnp.float32), taught.astype(jnp.float32), settings)
        losses = losses.reshape(losses.shape[0], -1).mean(-1)
        teacher = jnp.where(weight > 0, losses * weight, 0.0).sum()
        return {**{name: (1 - share) * part for name, part in parts.items()}, "teacher": share * teacher}, count


def _taught(logits: Array, teacher: Array, settings: DistillSettings) -> Array:
    """(..., classes) twice -> (...)."""
    if settings.kind == "hard":
        return optax.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(-1))
    tau = settings.temperature
    log_p, log_q = (jax.nn.log_softmax(z / tau) for z in (teacher, logits))
    return tau**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
