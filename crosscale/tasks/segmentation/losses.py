"""What a segmentation learns from: losses over pixels that count.

Every function takes logits (B, H, W, classes) and labels (B, H, W) with `IGNORED` where a pixel does not count, and
works in float32.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crosscale.contracts import Array
from crosscale.tasks.segmentation.labels import IGNORED


def counted(labels: Array, weight: Array) -> Array:
    """(B, H, W) bool: the pixels that count, of the examples of weight above 0."""
    return (labels != IGNORED) & (weight > 0)[:, None, None]


def pixel_losses(logits: Array, labels: Array, focal_gamma: float = 0.0) -> Array:
    """(B, H, W) cross-entropy; ignored pixels are counted as class 0.

    Args:
      focal_gamma: above 0 each pixel counts (1 - p)^gamma, p being the probability of its label (Lin et al., Focal Loss
        for Dense Object Detection, ICCV 2017, eq. 4).
    """
    safe = jnp.where(labels == IGNORED, 0, labels).astype(jnp.int32)
    losses: Array = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), safe)
    return losses * (1 - jnp.exp(-losses)) ** focal_gamma if focal_gamma else losses


def class_factors(labels: Array, weights: Sequence[float] | None) -> Array:
    """(B, H, W) the weight of each pixel's class; 1 without weights."""
    if weights is None:
        return jnp.ones(labels.shape, jnp.float32)
    table = np.ones(IGNORED + 1, np.float32)
    table[: len(weights)] = weights
    return jnp.asarray(table)[labels]


def hard_pixels(losses: Array, real: Array, share: float) -> Array:
    """(B, H, W) bool: of the pixels that count, the `share` with the largest losses in the batch.

    Shrivastava et al.: Training Region-based Object Detectors with Online Hard Example Mining, CVPR 2016.
    """
    shown = jnp.where(real, jax.lax.stop_gradient(losses), -jnp.inf)
    kept = jnp.ceil(share * real.sum()).astype(jnp.int32)
    ordered = jnp.sort(shown.reshape(-1))
    limit = ordered[jnp.clip(ordered.size - kept, 0, ordered.size - 1)]
    return real & (shown >= limit)


def dice_losses(logits: Array, labels: Array, real: Array) -> Array:
    """(B,) one minus the soft Dice overlap 2 sum(p g) / sum(p^2 + g^2), averaged over the classes.

    Milletari et al.: V-Net, 3DV 2016, section 3. A class that a picture does not show counts too: nothing of it should
    be found.
    """
    mask = real[..., None].astype(jnp.float32)
    found = jax.nn.softmax(logits.astype(jnp.float32), -1) * mask
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32) * mask
    both = (found * truth).sum((1, 2))
    either = (jnp.square(found) + jnp.square(truth)).sum((1, 2))
    loss: Array = 1 - ((2 * both + 1) / (either + 1)).mean(-1)
    return loss
