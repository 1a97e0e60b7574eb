"""Mixup, CutMix, label smoothing and random erasing on the device, as pure functions that jit.

mixup: Zhang et al., 2018. CutMix: Yun et al., 2019. Random erasing: Zhong et al., 2020. The parameters
follow timm: the partner of example i is example B-1-i, and CutMix's share is what the clipped box covers.
"""

import jax
import jax.numpy as jnp

from crosscale.contracts import Array
from crosscale.data.augment import Augment, EraseMode
from crosscale.draws import drawn


def mix(
    key: Array,
    images: Array,
    labels: Array,
    *,
    num_classes: int,
    label_smoothing: float,
    augment: Augment,
    weight: Array | None = None,
) -> tuple[Array, Array]:
    """Mixes each example with its partner by mixup or CutMix and gives the soft targets.

    Args:
      images: (B, H, W, C) floating point.
      labels: (B,) class indices.
      label_smoothing: in [0, 1); each class gets label_smoothing / num_classes of it.
      weight: see `mix_targets`.

    Returns:
      images of the same shape and type, and targets (B, num_classes) float32 that sum to 1 per row.
    """
    off = label_smoothing / num_classes
    targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32) * (1.0 - label_smoothing) + off
    return mix_targets(key, images, targets, augment, weight)


def mix_targets(
    key: Array, images: Array, targets: Array, augment: Augment, weight: Array | None = None
) -> tuple[Array, Array]:
    """Mixes each example with its partner by mixup or CutMix, and their targets by the same shares.

    Args:
      images: (B, H, W, C) floating point.
      targets: (B, N).
      weight: (B,), optional; an example whose partner has weight 0 (a picture that did not decode) stays
        unmixed.

    Returns:
      images and targets of the same shapes and types.
    """
    if not augment.mixes:
        return images, targets
    lam, use_cutmix, inside = _draw_mix(key, images.shape, augment)
    if weight is not None:
        usable = weight[::-1] > 0
        lam = jnp.where(usable, lam, 1.0)
        inside = inside & usable[:, None, None, None]
    partner = images[::-1]
    share = lam[:, None, None, None].astype(images.dtype)
    mixed = jnp.where(
        use_cutmix[:, None, None, None],
        jnp.where(inside, partner, images),
        images * share + partner * (1 - share),
    )
    targets = targets * lam[:, None] + targets[::-1] * (1.0 - lam[:, None])
    return mixed, targets


def _draw_mix(key: Array, shape: tuple[int, ...], augment: Augment) -> tuple[Array, Array, Array]:
    """Each example's own share (B,), whether it is cut (B,), and the cut box (B, H, W, 1)."""
    batch, height, width, _ = shape
    draws = {"batch": 1, "pair": (batch + 1) // 2, "elem": batch}[augment.mix_mode]
    on_key, switch_key, mixup_key, cutmix_key, y_key, x_key = jax.random.split(key, 6)
    lam_mixup = _beta(mixup_key, augment.mixup, draws)
    lam_cutmix = _beta(cutmix_key, augment.cutmix, draws)
    if augment.mixup > 0 and augment.cutmix > 0:
        use_cutmix = jax.random.uniform(switch_key, (draws,)) < augment.mix_switch_prob
    else:
        use_cutmix = jnp.full((draws,), augment.cutmix > 0)
    mixes = jax.random.uniform(on_key, (draws,)) < augment.mix_prob
    lam = jnp.where(mixes, jnp.where(use_cutmix, lam_cutmix, lam_mixup), 1.0)

    side = jnp.sqrt(1.0 - lam)
    low_y, high_y = _cut_range(y_key, height, side)
    low_x, high_x = _cut_range(x_key, width, side)
    covered = (high_y - low_y) * (high_x - low_x) / (height * width)
    lam = jnp.where(use_cutmix, 1.0 - covered, lam)

    drawn = [_per_example(value, batch, augment.mix_mode) for value in (lam, use_cutmix, low_y, high_y, low_x, high_x)]
    box = _box(drawn[2], drawn[3], drawn[4], drawn[5], height, width)
    return drawn[0], drawn[1], box


def _beta(key: Array, alpha: float, draws: int) -> Array:
    if alpha == 0:
        return jnp.ones((draws,), jnp.float32)
    return jax.random.beta(key, alpha, alpha, (draws,), jnp.float32)


def _cut_range(key: Array, length: int, share: Array) -> tuple[Array, Array]:
    """A stretch of floor(length * share) pixels around a uniform centre, clipped to 0..length."""
    cut = jnp.floor(length * share).astype(jnp.int32)
    centre = jax.random.randint(key, share.shape, 0, length)
    return jnp.clip(centre - cut // 2, 0, length), jnp.clip(centre + (cut + 1) // 2, 0, length)


def _per_example(value: Array, batch: int, mode: str) -> Array:
    if mode == "batch":
        return jnp.broadcast_to(value, (batch,))
    if mode == "pair":  # examples i and B-1-i share one draw
        return jnp.concatenate([value, value[: batch // 2][::-1]])
    return value


def _box(low_y: Array, high_y: Array, low_x: Array, high_x: Array, height: int, width: int) -> Array:
    """Boolean (B, H, W, 1), true inside each example's box."""
    y = jnp.arange(height)[None, :, None, None]
    x = jnp.arange(width)[None, None, :, None]
    low_y, high_y, low_x, high_x = (side[:, None, None, None] for side in (low_y, high_y, low_x, high_x))
    return (low_y <= y) & (y < high_y) & (low_x <= x) & (x < high_x)


def erase(
    key: Array,
    images: Array,
    prob: float,
    *,
    mode: EraseMode = "pixel",
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Array:
    """Fills a random rectangle.

    Args:
      images: (B, H, W, C), normalised.
      prob: chance per image; 0 returns the images as they are.
      mode: with standard normal noise, a value per pixel and channel ("pixel") or per picture and channel ("rand"),
        or with zero, the mean colour ("const").
      area: share of the picture that the rectangle covers, uniform.
      aspect: its height / width, log-uniform. The first of ten draws that fits is taken; if none does,
        the picture stays.
    """
    if prob == 0:
        return images
    batch, height, width, _ = images.shape
    on_key, area_key, aspect_key, y_key, x_key, noise_key = jax.random.split(key, 6)
    tries = (batch, 10)
    areas = drawn(tries, lambda flat: jax.random.uniform(area_key, flat, minval=area[0], maxval=area[1]))
    areas = areas * (height * width)
    low, high = jnp.log(jnp.asarray(aspect))
    aspects = jnp.exp(drawn(tries, lambda flat: jax.random.uniform(aspect_key, flat, minval=low, maxval=high)))
    tall = jnp.round(jnp.sqrt(areas * aspects)).astype(jnp.int32)
    wide = jnp.round(jnp.sqrt(areas / aspects)).astype(jnp.int32)
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    tall, wide = (jnp.take_along_axis(sides, first, axis=1)[:, 0] for sides in (tall, wide))
    top = jax.random.randint(y_key, (batch,), 0, jnp.maximum(height - tall, 0) + 1)
    left = jax.random.randint(x_key, (batch,), 0, jnp.maximum(width - wide, 0) + 1)
    chosen = (jax.random.uniform(on_key, (batch,)) < prob) & fits.any(axis=1)
    inside = _box(top, top + tall, left, left + wide, height, width) & chosen[:, None, None, None]
    if mode == "const":
        return jnp.where(inside, jnp.zeros((), images.dtype), images)
    shape = images.shape if mode == "pixel" else (batch, 1, 1, images.shape[-1])
    noise = drawn(shape, lambda flat: jax.random.normal(noise_key, flat, images.dtype))
    return jnp.where(inside, noise, images)
