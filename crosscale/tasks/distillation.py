"""Classification with a teacher: soft or hard distillation (Touvron et al.: DeiT, ICML 2021, section 4).

DeiT gives the teacher's share a token and a classifier of its own; the models here have none, so that both shares
act on the same logits, as in the paper's ablation without that token ("usual" and "hard" distillation, Table 3).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from crosscale.contracts import Array
from crosscale.errors import RequestError
from crosscale.tasks.classification import Classification

_USUAL = {"soft": 0.1, "hard": 0.5}  # the paper's shares


@dataclass(frozen=True)
class DistillSettings:
    """A teacher whose answers are learnt beside the labels."""

    teacher: str | None = None
    """A run folder, or a preset; null trains without a teacher."""
    weights: str | None = None
    """Weight file of a teacher that is a preset; null takes the published ones."""
    kind: Literal["soft", "hard"] = "soft"
    """Learn the teacher's probabilities, or its most probable class as if it were the label."""
    temperature: float = 3.0
    """Divides both models' logits (soft)."""
    share: float | None = None
    """Of the teacher in the loss, the rest is the labels'; null is 0.1 for soft and 0.5 for hard."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise RequestError(f"distill.temperature={self.temperature}: must be positive")
        if self.share is not None and not 0 <= self.share <= 1:
            raise RequestError(f"distill.share={self.share}: must lie in 0 <= value <= 1")


@dataclass(frozen=True)
class Distillation(Classification):
    """Classification that also learns from a teacher; validation is that of `Classification`.

    Attributes:
      teacher: normalised (and augmented) images (B, H, W, C) -> logits (B, num_classes).
      distill: how its answers count.
    """

    teacher: Callable[[Array], Array] | None = None
    distill: DistillSettings = DistillSettings()

    def augment(self, key: Array, images: Array, batch: Mapping[str, Array]) -> tuple[Array, Any]:
        """As `Classification.augment`; the targets come with the teacher's logits on the same images."""
        assert self.teacher is not None
        images, targets = super().augment(key, images, batch)
        return images, (targets, jax.lax.stop_gradient(self.teacher(images)))

    def loss(self, outputs: Array, targets: Any, weight: Array) -> tuple[Array, Array]:
        """(1 - share) * cross-entropy + share * the teacher's part (DeiT, eqs. 2 and 3), summed; sum of weights.

        Soft: temperature^2 * KL(teacher || student) of the probabilities at that temperature. Hard: the
        cross-entropy with the teacher's most probable class.
        """
        labels, teacher = targets
        share = _USUAL[self.distill.kind] if self.distill.share is None else self.distill.share
        logits, teacher = outputs.astype(jnp.float32), teacher.astype(jnp.float32)
        if self.distill.kind == "hard":
            taught = optax.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(-1))
        else:
            tau = self.distill.temperature
            log_p, log_q = (jax.nn.log_softmax(z / tau) for z in (teacher, logits))
            taught = tau**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
        losses = (1 - share) * optax.softmax_cross_entropy(logits, labels) + share * taught
        return jnp.where(weight > 0, losses * weight, 0.0).sum(), weight.sum()
