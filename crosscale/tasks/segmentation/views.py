"""Several looks at a picture in validation and prediction: sliding windows, its mirror image, several scales."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from crosscale.contracts import Array
from crosscale.data.joint_augment import SIDES
from crosscale.data.mask_examples import STEP
from crosscale.errors import RequestError
from crosscale.ranges import POSITIVE

LEAST = 1e-30  # a probability, for the logarithm
Apply = Callable[[Array], Array]  # (B, H, W, C) normalised images -> (B, h, w, classes) logits of the cells


@dataclass(frozen=True)
class Views:
    """How a picture is looked at in validation and prediction; by default once and whole."""

    window: Annotated[tuple[int, int] | None, SIDES] = None
    """In validation and prediction: height and width of a sliding window, multiples of 32; null takes the picture
    whole."""
    window_stride: Annotated[tuple[int, int] | None, SIDES] = None
    """Steps of the window down and across, multiples of 32; null is about two thirds of it."""
    test_flip: bool = False
    """In validation and prediction: whether the model also looks at the picture's mirror image."""
    test_scales: Annotated[tuple[float, ...], POSITIVE] = (1.0,)
    """In validation and prediction: multiples of the picture's size at which the model looks at it."""

    def check_views(self) -> None:
        """Raises RequestError for what cannot work together."""
        for name, sides in (("window", self.window), ("window_stride", self.window_stride)):
            if sides is not None and any(side % STEP for side in sides):
                raise RequestError(f"task.{name}={list(sides)}: both sides must be multiples of {STEP}")
        if self.window is None and self.window_stride is not None:
            raise RequestError(f"task.window_stride={list(self.window_stride)} goes with task.window")
        if any(step > side for step, side in zip(self.stride, self.window or self.stride, strict=True)):
            raise RequestError(
                f"task.window_stride={list(self.stride)} is longer than task.window={list(self.window or ())}, so that "
                "windows would leave gaps"
            )
        if not self.test_scales:
            raise RequestError("task.test_scales is empty; [1.0] is the picture as it is")

    @property
    def stride(self) -> tuple[int, int]:
        """The window's steps; unused without a window."""
        if self.window_stride is not None or self.window is None:
            return self.window_stride or (STEP, STEP)
        height, width = (max(STEP, round(side * 2 / 3 / STEP) * STEP) for side in self.window)
        return height, width


def looked_at(apply: Apply, images: Array, views: Views) -> Array:
    """(B, H, W, C) normalised images -> (B, h, w, classes), what the views say together, as logits of the cells.

    One view gives its logits. Several give the logarithm of the mean of their probabilities: each view's logits
    are brought to the cells of the picture as it is, bilinearly. A window's logits are averaged with those of the
    windows that overlap it. One view is computed after the other, and one window of it.
    """
    shape = jax.eval_shape(apply, images).shape
    total: Array = jnp.zeros(shape, jnp.float32)
    count = len(views.test_scales) * (2 if views.test_flip else 1)
    for scale in views.test_scales:
        x = _rescaled(images, scale)
        for turn in (slice(None), slice(None, None, -1))[: 2 if views.test_flip else 1]:
            cells = _slid(apply, x[:, :, turn], views)[:, :, turn]
            cells = jax.image.resize(cells, shape, "linear", antialias=False)
            if count == 1:
                return cells
            total = total + jax.nn.softmax(cells.astype(jnp.float32), -1)
    return jnp.log(jnp.maximum(total / count, LEAST))


def _rescaled(images: Array, scale: float) -> Array:
    """At a multiple of the size, raised to multiples of 32; what is made smaller is averaged, as when loading."""
    if scale == 1:
        return images
    height, width = (math.ceil(side * scale / STEP - 1e-6) * STEP for side in images.shape[1:3])
    shape = (images.shape[0], height, width, images.shape[3])
    return jax.image.resize(images, shape, "linear", antialias=True)


def _slid(apply: Apply, images: Array, views: Views) -> Array:
    """The cells' logits by windows, averaged where these overlap; the last of a row or column is shifted inward."""
    if views.window is None:
        return apply(images)
    batch, *sides, channels = images.shape
    height, width = (min(pair) for pair in zip(views.window, sides, strict=True))
    if [height, width] == sides:
        return apply(images)
    tops, lefts = (
        np.minimum(np.arange(0, side - part + step, step), side - part)
        for side, part, step in zip(sides, (height, width), views.stride, strict=True)
    )
    one = jax.eval_shape(apply, jax.ShapeDtypeStruct((batch, height, width, channels), images.dtype))
    cell = height // one.shape[1]
    counts = np.zeros((sides[0] // cell, sides[1] // cell), np.float32)
    places = np.array([(top, left) for top in tops for left in lefts], np.int32)
    for top, left in places // cell:
        counts[top : top + one.shape[1], left : left + one.shape[2]] += 1

    def add(total: Any, place: Any) -> tuple[Any, None]:
        part = lax.dynamic_slice(images, (0, place[0], place[1], 0), (batch, height, width, channels))
        start = (0, place[0] // cell, place[1] // cell, 0)
        found = lax.dynamic_slice(total, start, one.shape) + apply(part).astype(jnp.float32)
        return lax.dynamic_update_slice(total, found, start), None

    zeros = jnp.zeros((batch, *counts.shape, one.shape[3]), jnp.float32)
    total, _ = lax.scan(add, zeros, jnp.asarray(places))
    return total / counts[..., None]
