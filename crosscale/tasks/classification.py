"""One label per picture: cross-entropy on soft targets, top-1 and top-5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crosscale.contracts import Array
from crosscale.data.augment import Augment
from crosscale.data.mix import erase, mix
from crosscale.tasks.task import Metrics


@dataclass(frozen=True)
class Classification:
    """Single-label classification.

    Attributes:
      num_classes: width of the logits.
      label_smoothing: in [0, 1); share of each training target that is spread over all classes.
      augmentation: supplies random erasing, mixup and CutMix; what else it holds is the loader's.
    """

    num_classes: int
    label_smoothing: float = 0.0
    augmentation: Augment = field(default_factory=Augment.none)

    def augment(self, key: Array, images: Array, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """Erases and mixes.

        Args:
          images: (B, H, W, C) normalised.
          batch: "label" (B,) and "weight" (B,).

        Returns:
          images of the same shape and targets (B, num_classes) whose rows sum to 1.
        """
        erase_key, mix_key = jax.random.split(key)
        images = erase(erase_key, images, self.augmentation.erase_prob, mode=self.augmentation.erase_mode)
        return mix(
            mix_key,
            images,
            batch["label"],
            num_classes=self.num_classes,
            label_smoothing=self.label_smoothing,
            augment=self.augmentation,
            weight=batch["weight"],
        )

    def loss(self, outputs: Array, targets: Array, weight: Array) -> tuple[Array, Array]:
        """Softmax cross-entropy in float32: (sum over examples times weight, sum of weights)."""
        losses = optax.softmax_cross_entropy(outputs.astype(jnp.float32), targets)
        # where, not only a product: a padded example's loss may be infinite, and 0 * inf is NaN
        return jnp.where(weight > 0, losses * weight, 0.0).sum(), weight.sum()

    def metrics(self, outputs: Array, batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy with the hard label, top-1 and top-5 (top-k where there are fewer classes)."""
        label, weight = batch["label"], batch["weight"]
        logits = outputs.astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        count = weight.sum()
        _, best = jax.lax.top_k(logits, min(5, self.num_classes))
        # A NaN among the logits must not pass for a hit, whatever order top_k puts it in.
        hits = (best == label[:, None]) & jnp.isfinite(logits).all(-1)[:, None]
        sums = {"loss": losses, "top1": hits[:, 0], "top5": hits.any(-1)}
        return {name: (jnp.where(weight > 0, value * weight, 0.0).sum(), count) for name, value in sums.items()}

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Top-1; between equals the lower loss."""
        loss = metrics["loss"]
        return metrics["top1"], -loss if np.isfinite(loss) else -np.inf

    def decode(self, outputs: Array, classes: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """The k most probable classes of each example with their probabilities, best first."""
        probabilities = np.asarray(jax.nn.softmax(jnp.asarray(outputs, jnp.float32), axis=-1))
        k = min(k, len(classes))
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :k]
        return [[(classes[i], float(row[i])) for i in best] for row, best in zip(probabilities, order, strict=True)]
